"""DiT (Peebles & Xie 2023, arXiv:2212.09748) on 8x8 scanned digits, label-conditional: a full run in minutes on a laptop CPU.

python -m jaxgen.main --config=configs/dit_digits.py --workdir=runs/dit_digits

A small net of 16 tokens with the paper's objective (learned variance); schedule and guidance of configs/ddpm_digits.py.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="dit", patch=2, depth=6, width=128, heads=4, null_label=True, out_channels=2,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="eps",
        objective="hybrid",
        condition_dropout=0.1,
        solver=dict(name="ancestral", steps=50, variance="learned"),
        guide=dict(name="cfg", scale=1.5),
        nll=dict(name="bound", variance="learned"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 32, "method.net.depth": 2, "method.net.heads": 2, "method.solver.steps": 4,
}  # fmt: skip
