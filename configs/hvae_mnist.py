"""Hierarchical VAE (Child 2020, arXiv:2011.10650; Soenderby et al. 2016, arXiv:1602.02282) on dynamically binarised MNIST.

Six groups of latents on grids of 7, 14 and 28 rows. Published for five layers of latents: -81.7 nats (Soenderby et al. 2016).

python -m jaxgen.main --config=configs/hvae_mnist.py --workdir=runs/hvae_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=200, save_every=2_000))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    c.method = dict(
        name="vae",
        net=dict(
            name="vdvae",
            width=32,
            z=8,
            bottleneck=0.5,
            enc="28x1,28d2,14x1,14d2,7x1",
            dec="7x3,14m7,14x1,28m14",
            optimizer=dict(name="adam", lr=1e-3, b2=0.9, weight_decay=0.01, warmup=100, clip=200.0, skip=10.0),
            ema=0.999,
        ),
        likelihood=dict(name="bernoulli", binarize="dynamic"),
        beta_warmup=500,
        iwae_chunk=1,
    )
    c.eval = dict(
        loss=dict(every=2_000, num=2_000),
        likelihood=dict(every=0, num=500),
        grid=dict(every=2_000),
        reconstruct=dict(every=2_000, num=2_000),
        traversals=dict(every=2_000),
    )
    small = {"method.net.width": 8, "method.net.z": 2, "method.net.enc": "8x1", "method.net.dec": "8x1"}
    return tiny(c, **small, **{"method.iwae_samples": 4}) if arg == "tiny" else c
