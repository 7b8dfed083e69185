"""DCGAN (Radford et al. 2015, arXiv:1511.06434) on MNIST.

Published figure: nearest-neighbour error 2.98 % on 10 million samples of a class-conditional model (table 2).

python -m jaxgen.main --config=configs/dcgan_mnist.py --workdir=runs/dcgan_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000))
    c.data = dict(name="tfds", dataset="mnist", batch=128)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=100,
        prior="uniform",
        loss="nonsaturating",
        gen=dict(name="dcgan_generator", width=64, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
