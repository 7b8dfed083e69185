"""EDM (Karras et al. 2022, arXiv:2206.00364) on MNIST, label-conditional with classifier-free guidance.

python -m jaxgen.main --config=configs/edm_mnist.py --workdir=runs/edm_mnist

No figure is published for this set. The paper's objective, EMA and sampler (18 Heun steps) with a small DDPM++ net; an hour
or so on one GPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=100, save_every=2_000))
    c.data = dict(name="tfds", dataset="mnist", batch=128, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=64, mults=(1, 2, 2), blocks=2, attend=(14,), dropout=0.1,
            optimizer=dict(name="adam", lr=5e-4, warmup=1_000),
            ema=dict(name="half_life", images=500_000.0, rampup=0.05),
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-1.2, std=1.2),
        condition_dropout=0.1,
        solver=dict(name="heun", steps=18),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000), grid=dict(every=2_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.blocks": 1,
    "method.solver.steps": 3,
}  # fmt: skip
