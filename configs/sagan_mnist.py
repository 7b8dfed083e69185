"""SAGAN (Zhang et al. 2018, arXiv:1805.08318) on MNIST: attention at 14x14, spectral norm in both nets, two time scales.

The paper's step sizes with narrower nets; labels by projection.

python -m jaxgen.main --config=configs/sagan_mnist.py --workdir=runs/sagan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=64, labels=True)
    adam = dict(name="adam", b1=0.0, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="hinge",
        gen=dict(
            name="resnet_generator", width=64, spectral=True, attend=(14,), optimizer=dict(adam, lr=1e-4), ema=0.999
        ),
        disc=dict(
            name="resnet_discriminator",
            width=32,
            spectral=True,
            attend=(14,),
            pool="sum",
            optimizer=dict(adam, lr=4e-4),
        ),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.gen.width": 8, "method.gen.attend": (8,), "method.disc.width": 8, "method.disc.downs": 1, "method.disc.plain": 1,
    "method.disc.attend": (4,),
}  # fmt: skip
