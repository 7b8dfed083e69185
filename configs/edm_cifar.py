"""EDM (Karras et al. 2022, arXiv:2206.00364) on CIFAR-10, unconditional. Paper: FID 1.97 with 35 evaluations.

python -m jaxgen.main --config=configs/edm_cifar.py --workdir=runs/edm_cifar

The paper's DDPM++ net, preconditioning, weights, noise levels, non-leaky augmentation, Adam, EMA and 200 million images in
batches of 512. Hardware of the paper: 8 V100, two days.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=390_625, log_every=100, save_every=5_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=512, augment=("geometric",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=128, mults=(2, 2, 2), blocks=4, attend=(16,), dropout=0.13,
            optimizer=dict(name="adam", lr=1e-3, warmup=19_531),  # 10 million images
            ema=dict(name="half_life", images=500_000.0, rampup=0.05),
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-1.2, std=1.2),
        solver=dict(name="heun", steps=18),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.attend": (), "method.net.mults": (1, 2), "method.net.blocks": 1,
    "method.solver.steps": 3,
}  # fmt: skip
