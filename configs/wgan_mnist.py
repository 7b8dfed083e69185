"""WGAN (Arjovsky et al. 2017, arXiv:1701.07875) on MNIST: a critic whose weights stay within +-0.01; DCGAN's nets.

RMSProp, since moments of the gradient disturb the critic (algorithm 1); five updates of it for one of the generator.

python -m jaxgen.main --config=configs/wgan_mnist.py --workdir=runs/wgan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    rmsprop = dict(name="rmsprop", lr=5e-5)
    c.method = dict(
        name="gan",
        z_dim=100,
        loss="wasserstein",
        n_critic=5,
        gen=dict(name="dcgan_generator", width=64, optimizer=rmsprop, ema=0.999),
        disc=dict(name="dcgan_discriminator", width=64, optimizer=dict(rmsprop, bound=0.01)),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    small = {"method.gen.width": 8, "method.disc.width": 8, "method.n_critic": 2}
    return tiny(c, **small) if arg == "tiny" else c
