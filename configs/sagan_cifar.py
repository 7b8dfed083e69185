"""SAGAN (Zhang et al. 2018, arXiv:1805.08318) on CIFAR-10: attention at 16x16, spectral norm in both nets, two time scales.

The paper's step sizes, SNGAN's widths; labels by projection.

python -m jaxgen.main --config=configs/sagan_cifar.py --workdir=runs/sagan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, labels=True, augment=("flip",))
    adam = dict(name="adam", b1=0.0, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="hinge",
        gen=dict(
            name="resnet_generator", width=256, spectral=True, attend=(16,), optimizer=dict(adam, lr=1e-4), ema=0.999
        ),
        disc=dict(
            name="resnet_discriminator",
            width=128,
            spectral=True,
            attend=(16,),
            pool="sum",
            optimizer=dict(adam, lr=4e-4),
        ),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.gen.width": 8, "method.gen.base": 8, "method.disc.width": 8, "method.disc.downs": 1, "method.disc.plain": 1,
    "method.disc.attend": (8,),
}  # fmt: skip
