"""EDM (Karras et al. 2022, arXiv:2206.00364) on 8x8 scanned digits, label-conditional: a full run in minutes on a laptop CPU.

python -m jaxgen.main --config=configs/edm_digits.py --workdir=runs/edm_digits

The paper's objective and sampler (18 Heun steps) with a small DDPM++ net; guidance as in configs/ddpm_digits.py. A run of it
is the teacher of configs/consistency_distillation_digits.py.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=32, mults=(1, 2), blocks=1, attend=(4,), dropout=0.1,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-1.2, std=1.2),
        condition_dropout=0.1,
        solver=dict(name="heun", steps=18),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (), "method.solver.steps": 3}
