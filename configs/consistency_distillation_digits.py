"""Consistency distillation (Song et al. 2023, arXiv:2303.01469) on 8x8 digits: an EDM run as teacher, samples in one step.

python -m jaxgen.main --config=configs/edm_digits.py --workdir=runs/edm    # the teacher
python -m jaxgen.main --config=configs/consistency_distillation_digits.py --workdir=runs/cd --config.method.teacher=runs/edm

The net begins as the teacher and learns its guided flow. Times and weights are those of improved consistency training (Song &
Dhariwal 2023): with the paper's 18 levels drawn evenly one step ends three times as far from the data (experiments/README.md).
Published for CIFAR-10 with LPIPS (FID): 3.55 in one step, 2.93 in two.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="consistency_distillation",
        teacher=dict(name="run", path=""),
        net=dict(
            name="ddpmpp", width=32, mults=(1, 2), blocks=1, attend=(4,), dropout=0.0,
            optimizer=dict(name="radam", lr=1e-3, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        times=dict(name="log_normal", mean=-1.1, std=2.0, bounded=True),
        gap_weight=True,
        curriculum=dict(name="fixed", low=40),
        solver=dict(name="lcm", steps=1, scale=0.0, clip=True, grid=dict(name="karras", spare=True)),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 2}
