"""GAN (Goodfellow et al. 2014, arXiv:1406.2661) on MNIST: ReLU generator, maxout discriminator with dropout.

Published figure: Parzen-window log-likelihood 225 +- 2. The paper trains with momentum SGD; Adam is today's habit.

python -m jaxgen.main --config=configs/gan_mnist.py --workdir=runs/gan_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=500, save_every=10_000))
    c.data = dict(name="tfds", dataset="mnist", batch=100)
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
