"""Autoencoder (Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647) on the built-in 8x8 digits, seconds on two cores.

What `dae_digits` is compared with: the same net, which never saw noise.

python -m jaxgen.main --config=configs/ae_digits.py --workdir=runs/ae_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=200, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    c.method = dict(
        name="autoencoder",
        net=dict(
            name="autoencoder_net",
            latent=128,
            encoder=dict(name="mlp_encoder", width=256, depth=2, act="relu"),
            decoder=dict(name="mlp_decoder", width=256, depth=2, act="relu"),
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        likelihood=dict(name="gaussian"),
    )
    c.eval = dict(
        loss=dict(every=1_000),
        reconstruct=dict(every=1_000),
        restoration=dict(every=1_000, degradation=dict(name="gaussian", sigma=0.5)),
    )
    small = {"method.net.encoder.width": 16, "method.net.decoder.width": 16, "method.net.latent": 8}
    return tiny(c, **small) if arg == "tiny" else c
