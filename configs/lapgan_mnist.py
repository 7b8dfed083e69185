"""LAPGAN (Denton et al. 2015, arXiv:1506.05751) on MNIST, told the digit, 7 -> 14 -> 28: Adam and 32 channels, for two cores.

python -m jaxgen.main --config=configs/lapgan_mnist.py --workdir=runs/lapgan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, save_every=5_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=64, labels=True)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="lapgan",
        levels=2,
        loss="nonsaturating",
        gen=dict(name="level_generator", width=32, optimizer=adam, ema=0.999),
        disc=dict(name="level_discriminator", width=32, optimizer=adam),
        base_gen=dict(name="mlp_generator", width=600, optimizer=adam, ema=0.999),
        base_disc=dict(name="mlp_discriminator", width=300, pieces=2, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.levels": 1, **{f"method.{net}.width": 8 for net in ("gen", "disc", "base_gen", "base_disc")}}
