"""EDM2 (Karras et al. 2024, arXiv:2312.02696) on 8x8 scanned digits, label-conditional: a full run in minutes on a laptop CPU.

python -m jaxgen.main --config=configs/edm2_digits.py --workdir=runs/edm2_digits

The paper's configuration G at the size of configs/edm_digits.py: nothing is normalised but weights and magnitudes, and the
length of the average is chosen afterwards (--mode=sweep).
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, snapshot_every=100, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="edm2_unet", width=32, mults=(1, 2), blocks=1, attend=(4,), head_dim=32,
            optimizer=dict(name="adam", lr=0.01, b2=0.99, schedule="inverse_sqrt", hold=300, warmup=50, unit=".*kernel"),
            ema=(dict(name="power", std=0.10), dict(name="power", std=0.05)),
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-0.8, std=1.6),
        objective="uncertainty",
        condition_dropout=0.1,
        solver=dict(name="heun", steps=18),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (8,), "method.net.head_dim": 16,
    "method.solver.steps": 3,
}  # fmt: skip
