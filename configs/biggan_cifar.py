"""A BigGAN (Brock et al. 2018, arXiv:1809.11096) for CIFAR-10: one table of labels for all norms, a part of z for each block.

The authors' settings for 32x32 pixels, without attention. `--config.method.truncate=latent` draws latents that lie far out again.

python -m jaxgen.main --config=configs/biggan_cifar.py --workdir=runs/biggan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=125_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=50, labels=True, augment=("flip",))
    adam = dict(name="adam", lr=2e-4, b1=0.0, b2=0.999)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="hinge",
        n_critic=4,
        fakes="uniform",
        gen=dict(
            name="resnet_generator",
            width=256,
            spectral=True,
            shared=128,
            hierarchical=True,
            kernels="normal",
            optimizer=adam,
            ema=0.9999,
        ),
        disc=dict(name="resnet_discriminator", width=256, spectral=True, pool="sum", kernels="normal", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_500), grid=dict(every=2_500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.gen.width": 8, "method.gen.base": 8, "method.disc.width": 8, "method.disc.downs": 1, "method.disc.plain": 1,
    "method.n_critic": 2,
}  # fmt: skip
