"""GAN (Goodfellow et al. 2014, arXiv:1406.2661) on eight Gaussians in the plane: does it find all of them? A minute or two.

Non-saturating game with R1 (Mescheder et al. 2018, arXiv:1801.04406). Other games by the command line, all in docs/gans.md:

    WGAN-GP     --config.method.loss=wasserstein --config.method.disc_penalties=gradient --config.method.n_critic=5
                --config.method.disc_penalties.strength=0.1 (Gulrajani et al. 2017, as their program for the plane)
    hinge, SN   --config.method.loss=hinge --config.method.disc_penalties=none --config.method.disc.spectral=True
    the first   --config.method.disc_penalties=none

python -m jaxgen.main --config=configs/gan_ring8.py --workdir=runs/gan_ring8    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=1_000, save_every=20_000, steps_per_call=200))
    c.data = dict(name="ring", batch=256)
    adam = dict(name="adam", lr=1e-3, b1=0.0, b2=0.9, schedule="linear")
    c.method = dict(
        name="gan",
        z_dim=4,
        loss="nonsaturating",
        disc_penalties=dict(name="r1", strength=0.1),
        gen=dict(name="mlp_generator", width=128, depth=3, optimizer=adam, ema=0.999),
        disc=dict(name="mlp_discriminator", width=128, depth=3, pieces=2, dropout=0.0, optimizer=adam),
    )
    c.eval = dict(modes=dict(every=5_000), grid=dict(every=5_000, num=2_000))
    return tiny(c, **{"method.gen.width": 16, "method.disc.width": 8}) if arg == "tiny" else c
