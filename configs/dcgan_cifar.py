"""DCGAN (Radford et al. 2015, arXiv:1511.06434) on CIFAR-10.

Published for 32x32 images (StudioGAN's log): FID 49.0 at the best step, about 42k, and worse from there.

python -m jaxgen.main --config=configs/dcgan_cifar.py --workdir=runs/dcgan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=100,
        prior="uniform",
        loss="nonsaturating",
        gen=dict(name="dcgan_generator", width=128, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
