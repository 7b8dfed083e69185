"""Flow matching along straight paths (Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747) on 8x8 digits.

python -m jaxgen.main --config=configs/flow_digits.py --workdir=runs/flow_digits

Label-conditional with the net and guidance of configs/ddpm_digits.py; minutes on a laptop CPU.
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
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="linear"),
        predict="velocity",
        times="uniform",
        condition_dropout=0.1,
        solver=dict(name="euler", steps=50, space="time"),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 4}
