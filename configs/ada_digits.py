"""DCGAN with ADA (Karras et al. 2020, arXiv:2006.06676) on the built-in 8x8 digits: a few minutes on two cores.

1,500 digits are few: without augmentation D knows them by heart after a minute. `--config.data.path=FILE.npz --config.data=arrays`
takes digits of your own.

python -m jaxgen.main --config=configs/ada_digits.py --workdir=runs/ada_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=10_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    adam = dict(name="adam", lr=5e-4, b1=0.0, b2=0.99)
    c.method = dict(
        name="gan",
        z_dim=32,
        loss="nonsaturating",
        disc_penalties=dict(name="r1", strength=0.1),
        augment=dict(name="ada", ramp=100_000),
        gen=dict(name="dcgan_generator", width=32, base=2, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=32, base=2, norm="none", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_000), grid=dict(every=2_000))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8}) if arg == "tiny" else c
