"""LSGAN (Mao et al. 2016, arXiv:1611.04076) on CIFAR-10: D's answers are drawn to 0 and 1 by least squares; DCGAN's nets.

python -m jaxgen.main --config=configs/lsgan_cifar.py --workdir=runs/lsgan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, augment=("flip",))
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=100,
        prior="uniform",
        loss="least_squares",
        gen=dict(name="dcgan_generator", width=128, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
