"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937) on CIFAR-10: 8x8 codes of 512, EMA codebook (app. A.1).

Published figure: 4.67 bits/dim with a prior over 10 maps of 8x8 codes; the authors' single map reconstructs with a
normalised error of about 0.055 (variance of the data = 1).

python -m jaxgen.main --config=configs/vqvae_cifar.py --workdir=runs/vqvae_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=250_000, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    sizes = dict(width=256, hidden=256, downs=2, blocks=2)
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae_net",
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            quantizer=dict(name="ema_quantizer", codes=512, dim=64, decay=0.99, beta=0.25),
            optimizer=dict(name="adam", lr=2e-4),
        ),
        likelihood=dict(name="gaussian", sigma=0.35),
    )
    c.eval = dict(loss=dict(every=5_000), reconstruct=dict(every=5_000), codes=dict(every=5_000))
    small = {f"method.net.{part}.{key}": 16 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    small |= {"method.net.quantizer.codes": 16, "method.net.quantizer.dim": 8}
    return tiny(c, **small) if arg == "tiny" else c
