"""Very deep VAE (Child 2020, arXiv:2011.10650) on CIFAR-10: the authors' 45 groups of latents, from a grid of one place to 32x32.

Published: 2.87 bits/dim (table 1; six days on two V100). Updates are left out here by the running median of the gradient's norm
instead of their fixed threshold of 400.

python -m jaxgen.main --config=configs/hvae_cifar.py --workdir=runs/hvae_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_100_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=32, augment=("flip",))
    c.method = dict(
        name="vae",
        net=dict(
            name="vdvae",
            width=384,
            z=16,
            bottleneck=0.25,
            enc="32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3",
            dec="1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21",
            optimizer=dict(name="adam", lr=2e-4, b2=0.9, weight_decay=0.01, warmup=100, clip=200.0, skip=10.0),
            ema=0.9999,
        ),
        likelihood=dict(name="logistic_mixture", mixtures=10),
        pixels="sample",
        iwae_samples=16,
        iwae_chunk=1,
    )
    c.eval = dict(
        loss=dict(every=10_000),
        likelihood=dict(every=0, num=1_000),
        grid=dict(every=10_000),
        reconstruct=dict(every=10_000),
        traversals=dict(every=50_000, num=256),
    )
    small = {"method.net.width": 8, "method.net.z": 2, "method.net.enc": "16d4,4x1", "method.net.dec": "4x1,16m4"}
    return tiny(c, **small, **{"method.iwae_samples": 4, "method.likelihood.mixtures": 2}) if arg == "tiny" else c
