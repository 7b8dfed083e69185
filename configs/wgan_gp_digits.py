"""WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) on the built-in 8x8 digits: a few minutes on two cores.

python -m jaxgen.main --config=configs/wgan_gp_digits.py --workdir=runs/wgan_gp_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="digits", batch=64)
    adam = dict(name="adam", lr=5e-4, b1=0.0, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=32,
        loss="wasserstein",
        disc_penalties=dict(name="gradient", strength=10.0),
        n_critic=5,
        gen=dict(name="dcgan_generator", width=32, base=2, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=32, base=2, norm="none", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=500), grid=dict(every=500))
    small = {"method.gen.width": 8, "method.disc.width": 8, "method.n_critic": 2}
    return tiny(c, **small) if arg == "tiny" else c
