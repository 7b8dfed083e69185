"""Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784) on MNIST: both players are told the digit.

Published figure: Parzen-window log-likelihood 132 +- 1.8. The sample grid has a column for each digit.

python -m jaxgen.main --config=configs/cgan_mnist.py --workdir=runs/cgan_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=500, save_every=10_000))
    c.data = dict(name="tfds", dataset="mnist", batch=100, labels=True)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=100,
        prior="uniform",
        loss="nonsaturating",
        gen=dict(name="mlp_generator", width=1200, depth=2, optimizer=adam, ema=0.999),
        disc=dict(name="mlp_discriminator", width=240, depth=2, pieces=5, dropout=0.5, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000))
    return tiny(c, **{"method.gen.width": 32, "method.disc.width": 16}) if arg == "tiny" else c
