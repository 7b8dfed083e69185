"""Improved DDPM (Nichol & Dhariwal 2021, arXiv:2102.09672) on 8x8 scanned digits: learned variance, so that few steps sample well.

python -m jaxgen.main --config=configs/iddpm_digits.py --workdir=runs/iddpm_digits

The net and schedule of configs/ddpm_digits.py with L_hybrid; minutes on a laptop CPU. Add --config.method.objective=bound
--config.method.times=importance for the paper's likelihood variant.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, dropout=0.1, null_label=True,
            scale_shift=True, out_channels=2,
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


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 4}
