"""Convolutional VAE (Kingma & Welling 2013, arXiv:1312.6114) with a discretised logistic likelihood on CIFAR-10.

128 latents, no hierarchy: the model behind the "VAE 4.51 bits/dim" of van den Oord et al. 2017, section 4.1.

python -m jaxgen.main --config=configs/vae_cifar.py --workdir=runs/vae_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=250_000, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    sizes = dict(width=256, hidden=128, downs=3, blocks=2)
    c.method = dict(
        name="vae",
        net=dict(
            name="vae_net",
            latent=128,
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            optimizer=dict(name="adam", lr=5e-4, warmup=500, clip=100.0),
        ),
        likelihood=dict(name="logistic"),
        beta_warmup=2_000,
    )
    c.eval = dict(
        loss=dict(every=5_000),
        likelihood=dict(every=50_000),
        grid=dict(every=5_000),
        reconstruct=dict(every=5_000),
        traversals=dict(every=5_000),
    )
    small = {f"method.net.{part}.{key}": 16 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    return tiny(c, **small, **{"method.net.latent": 8, "method.iwae_samples": 4}) if arg == "tiny" else c
