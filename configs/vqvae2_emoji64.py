"""VQ-VAE-2 (Razavi et al. 2019, arXiv:1906.00446) on 64x64 pictures of your own, such as emoji: codes of 8x8 and 16x16.

The nets of rosinality/vq-vae-2-pytorch, 512 codes on each level. Where left and right do not matter add
"--config.data.augment=('flip',)".

python -m jaxgen.main --config=vqvae2_emoji64 --config.data.path=~/pictures --workdir=runs/mine    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, save_every=2_500))
    c.data = dict(name="folder", path="", size=64, batch=64)
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae2_net", width=128, hidden=32, blocks=2,
            quantizer=dict(name="ema_quantizer", codes=512, dim=64, decay=0.99, beta=0.25),
            optimizer=dict(name="adam", lr=3e-4),
        ),
        likelihood=dict(name="gaussian", sigma=0.70710678),  # its loss is the squared error: 2 sigma^2 = 1
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_500), reconstruct=dict(every=2_500), codes=dict(every=2_500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.hidden": 8, "method.net.blocks": 1, "method.net.quantizer.codes": 8,
    "method.net.quantizer.dim": 4, "method.net.quantizer.start": "data",
}  # fmt: skip
