"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937) on the built-in 8x8 digits: 4x4 codes of 64, a minute or two.

python -m jaxgen.main --config=configs/vqvae_digits.py --workdir=runs/vqvae_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    sizes = dict(width=64, hidden=32, downs=1, blocks=2)
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae_net",
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            quantizer=dict(name="ema_quantizer", codes=64, dim=16, decay=0.99, beta=0.25),
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        likelihood=dict(name="gaussian", sigma=0.5),
    )
    c.eval = dict(loss=dict(every=1_000), reconstruct=dict(every=1_000), codes=dict(every=1_000))
    small = {f"method.net.{part}.{key}": 16 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    small |= {"method.net.quantizer.codes": 16, "method.net.quantizer.dim": 8}
    return tiny(c, **small) if arg == "tiny" else c
