"""WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028) with the residual nets of appendix C on CIFAR-10.

Published figure: Inception score 7.86 +- 0.07, unconditional; 8.42 +- 0.10 with labels (wgan_gp_cifar_conditional), 100k steps.

python -m jaxgen.main --config=configs/wgan_gp_cifar.py --workdir=runs/wgan_gp    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, augment=("dequantise",))
    adam = dict(name="adam", lr=2e-4, b1=0.0, b2=0.9, schedule="linear")
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="wasserstein",
        disc_penalties=dict(name="gradient", strength=10.0),
        n_critic=5,
        gen_batch=2,
        gen=dict(name="resnet_generator", width=128, optimizer=adam, ema=0.999),
        disc=dict(name="resnet_discriminator", width=128, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.gen.width": 8, "method.gen.base": 8, "method.disc.width": 8, "method.disc.downs": 1, "method.disc.plain": 1,
    "method.n_critic": 2,
}  # fmt: skip
