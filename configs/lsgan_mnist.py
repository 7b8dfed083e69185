"""LSGAN (Mao et al. 2016, arXiv:1611.04076) on MNIST: D's answers are drawn to 0 and 1 by least squares; DCGAN's nets.

python -m jaxgen.main --config=configs/lsgan_mnist.py --workdir=runs/lsgan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=100,
        prior="uniform",
        loss="least_squares",
        gen=dict(name="dcgan_generator", width=64, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
