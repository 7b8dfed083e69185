"""Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784) on the built-in 8x8 digits: labels join z and D's images; DCGAN's nets.

python -m jaxgen.main --config=configs/cgan_digits.py --workdir=runs/cgan_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=12_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=32,
        loss="nonsaturating",
        gen=dict(name="dcgan_generator", width=32, base=2, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=32, base=2, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
