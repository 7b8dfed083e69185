"""GAN (Goodfellow et al. 2014, arXiv:1406.2661) on the built-in 8x8 digits: MLPs, about a minute on two cores.

With 1,500 images the discriminator would learn them by heart; the R1 penalty (Mescheder et al. 2018) keeps all digits.

python -m jaxgen.main --config=configs/gan_digits.py --workdir=runs/gan_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=8_000, log_every=500, save_every=2_000, steps_per_call=20))
    c.data = dict(name="digits", batch=64)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="gan",
        z_dim=32,
        loss="nonsaturating",
        disc_penalties=dict(name="r1", strength=1.0),
        gen=dict(name="mlp_generator", width=256, depth=2, norm="batch", optimizer=adam, ema=0.999),
        disc=dict(name="mlp_discriminator", width=128, depth=2, pieces=4, dropout=0.0, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **{"method.gen.width": 32, "method.disc.width": 16}) if arg == "tiny" else c
