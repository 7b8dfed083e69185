"""SNGAN (Miyato et al. 2018, arXiv:1802.05957) on MNIST: hinge loss, a discriminator with spectral norm; labels by projection.

The paper's step sizes with narrower nets, and one update of the discriminator for one of the generator.

python -m jaxgen.main --config=configs/sngan_mnist.py --workdir=runs/sngan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=64, labels=True)
    adam = dict(name="adam", lr=2e-4, b1=0.0, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="hinge",
        fakes="uniform",
        gen=dict(name="resnet_generator", width=64, optimizer=adam, ema=0.999),
        disc=dict(name="resnet_discriminator", width=32, spectral=True, pool="sum", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.gen.width": 8, "method.disc.width": 8, "method.disc.downs": 1, "method.disc.plain": 1}
