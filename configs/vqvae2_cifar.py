"""VQ-VAE-2 (Razavi et al. 2019, arXiv:1906.00446) on CIFAR-10: codes of 4x4 and of 8x8, 512 each, by EMA codebooks.

The nets of rosinality/vq-vae-2-pytorch. The paper has no figure for CIFAR-10.

python -m jaxgen.main --config=configs/vqvae2_cifar.py --workdir=runs/vqvae2_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae2_net", width=128, hidden=32, blocks=2,
            quantizer=dict(name="ema_quantizer", codes=512, dim=64, decay=0.99, beta=0.25),
            optimizer=dict(name="adam", lr=3e-4),
        ),
        likelihood=dict(name="gaussian", sigma=0.70710678),  # its loss is the squared error: 2 sigma^2 = 1
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), reconstruct=dict(every=5_000), codes=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.hidden": 8, "method.net.blocks": 1, "method.net.quantizer.codes": 8,
    "method.net.quantizer.dim": 4, "method.net.quantizer.start": "data",
}  # fmt: skip
