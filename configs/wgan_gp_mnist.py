"""WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) on MNIST: the authors' step sizes, critic and penalty, DCGAN nets.

python -m jaxgen.main --config=configs/wgan_gp_mnist.py --workdir=runs/wgan_gp_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, save_every=5_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=50)
    adam = dict(name="adam", lr=1e-4, b1=0.5, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="wasserstein",
        disc_penalties=dict(name="gradient", strength=10.0),
        n_critic=5,
        gen=dict(name="dcgan_generator", width=64, optimizer=adam, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, norm="none", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    small = {"method.gen.width": 8, "method.disc.width": 8, "method.n_critic": 2}
    return tiny(c, **small) if arg == "tiny" else c
