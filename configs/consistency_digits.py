"""Consistency training (Song et al. 2023, arXiv:2303.01469; Song & Dhariwal 2023, arXiv:2310.14189) on 8x8 digits in one step.

python -m jaxgen.main --config=configs/consistency_digits.py --workdir=runs/consistency_digits

The improved schedule with a small label-conditional DDPM++ net; minutes on a laptop CPU. For two or four steps add
--config.method.solver.steps=2.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="consistency",
        net=dict(
            name="ddpmpp", width=32, mults=(1, 2), blocks=1, attend=(4,), dropout=0.1,
            optimizer=dict(name="radam", lr=5e-4),
            ema=0.999,
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        times=dict(name="log_normal", mean=-1.1, std=2.0, bounded=True),
        curriculum=dict(name="doubling", low=10, high=160),
        solver=dict(name="lcm", steps=1, scale=0.0, clip=True, grid=dict(name="karras", spare=True)),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 2}
