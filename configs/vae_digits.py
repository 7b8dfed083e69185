"""VAE (Kingma & Welling 2013, arXiv:1312.6114) on the built-in 8x8 digits, ten seconds on two cores.

The likelihood is a discretised logistic over the 17 grey levels that the digits have, so that the bound is one on
log P(image) and the bits per dimension are comparable with any other model of these digits.

python -m jaxgen.main --config=configs/vae_digits.py --workdir=runs/vae_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=200, save_every=1_000, steps_per_call=20))
    c.data = dict(name="digits", batch=64)
    c.method = dict(
        name="vae",
        net=dict(
            name="vae_net",
            latent=12,
            encoder=dict(name="mlp_encoder", width=256, depth=2),
            decoder=dict(name="mlp_decoder", width=256, depth=2),
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine", weight_decay=0.1),
        ),
        likelihood=dict(name="logistic"),
    )
    c.eval = dict(
        loss=dict(every=1_000),
        likelihood=dict(every=0),
        grid=dict(every=1_000),
        reconstruct=dict(every=1_000),
        traversals=dict(every=1_000),
    )
    small = {"method.net.encoder.width": 32, "method.net.decoder.width": 32, "method.net.latent": 8}
    return tiny(c, **small, **{"method.iwae_samples": 4}) if arg == "tiny" else c
