"""DALL-E's discrete VAE (Ramesh et al. 2021, arXiv:2102.12092, section 2.1) on 32x32 rendered shapes: 8x8 codes of 256.

python -m jaxgen.main --config=dvae_shapes --workdir=runs/dvae    # add :tiny for a CPU run of seconds

The first stage of dalle_shapes and muse_shapes. Codes are drawn by a Gumbel-softmax whose temperature falls from 1 to 1/16, while
the weight of their KL rises. Pictures of another kind: --config.data=folder --config.data.path=~/pictures --config.data.size=64,
with --config.method.net.encoder.downs=3 --config.method.net.decoder.downs=3 for as many codes.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, num=20_000, batch=32)
    sizes = dict(width=64, hidden=32, downs=2, blocks=2)
    c.method = dict(
        name="vqvae",
        net=dict(
            name="vqvae_net",
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            quantizer=dict(name="gumbel_quantizer", codes=256, dim=64, hard=False, kl_weight=1e-4, kl_ramp=2_000),
            optimizer=dict(name="adam", lr=2e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
        likelihood=dict(name="gaussian", sigma=0.35),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), reconstruct=dict(every=1_000), codes=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {f"method.net.{part}.{key}": 8 for part in ("encoder", "decoder") for key in ("width", "hidden")}
TINY |= {"method.net.quantizer.codes": 16, "method.net.quantizer.dim": 8}
