"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937) on MNIST: 7x7 codes of 128. The paper has no figure for MNIST.

python -m jaxgen.main --config=configs/vqvae_mnist.py --workdir=runs/vqvae_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000))
    c.data = dict(name="tfds", dataset="mnist", batch=128)
    sizes = dict(width=64, hidden=32, downs=2, blocks=2)
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae_net",
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            quantizer=dict(name="ema_quantizer", codes=128, dim=16, decay=0.99, beta=0.25),
            optimizer=dict(name="adam", lr=5e-4),
        ),
        likelihood=dict(name="gaussian", sigma=0.35),
    )
    c.eval = dict(loss=dict(every=1_000), reconstruct=dict(every=1_000), codes=dict(every=1_000))
    small = {f"method.net.{part}.{key}": 16 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    small |= {"method.net.quantizer.codes": 16, "method.net.quantizer.dim": 8}
    return tiny(c, **small) if arg == "tiny" else c
