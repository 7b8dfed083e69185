"""Denoising autoencoder (Vincent et al. 2010, JMLR 11:3371) on MNIST, minutes on two cores.

It learns to take off noise of standard deviation 0.5, of pixels in [-1, 1].

python -m jaxgen.main --config=configs/dae_mnist.py --workdir=runs/dae_mnist    # add :tiny for seconds
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
        corrupt=dict(name="gaussian", sigma=0.5),
    )
    c.eval = dict(
        loss=dict(every=2_000),
        reconstruct=dict(every=2_000),
        restoration=dict(every=2_000, degradation=dict(name="gaussian", sigma=0.5)),
    )
    small = {f"method.net.{part}.{key}": 8 for part in ("encoder", "decoder") for key in ("width", "hidden")}
    return tiny(c, **small) if arg == "tiny" else c
