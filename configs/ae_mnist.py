"""Autoencoder (Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647) on MNIST, minutes on two cores.

What `dae_mnist` is compared with: the same net, which never saw noise.

python -m jaxgen.main --config=configs/ae_mnist.py --workdir=runs/ae_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=100)
    sizes = dict(width=32, hidden=32, downs=2, blocks=2)
    c.method = dict(
        name="autoencoder",
        net=dict(
            name="autoencoder_net",
            latent=16,
            encoder=dict(name="conv_encoder", **sizes),
            decoder=dict(name="conv_decoder", **sizes),
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        likelihood=dict(name="gaussian"),
    )
    c.eval = dict(
        loss=dict(every=2_000),
        reconstruct=dict(every=2_000),
        restoration=dict(every=2_000, degradation=dict(name="gaussian", sigma=0.5)),
    )
    small = {f"method.net.{part}.{key}": 8 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    return tiny(c, **small) if arg == "tiny" else c
