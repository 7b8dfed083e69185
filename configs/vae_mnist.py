"""VAE (Kingma & Welling 2013, arXiv:1312.6114) on dynamically binarised MNIST.

Two tanh layers on either side of 50 latents. Published bounds on binarised MNIST for nets of this size: -86.8 nats
(ELBO) and -84.8 with 50 draws (Burda et al. 2015, table 1); -89.9 with 40 latents (Rezende & Mohamed 2015, table 2).

python -m jaxgen.main --config=configs/vae_mnist.py --workdir=runs/vae_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=200_000, log_every=500, save_every=10_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=100)
    c.method = dict(
        name="vae",
        net=dict(
            name="vae_net",
            latent=50,
            encoder=dict(name="mlp_encoder", width=400, depth=2),
            decoder=dict(name="mlp_decoder", width=400, depth=2),
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        likelihood=dict(name="bernoulli", binarize="dynamic"),
        iwae_samples=50,
    )
    c.eval = dict(
        loss=dict(every=5_000),
        likelihood=dict(every=50_000),
        grid=dict(every=5_000),
        reconstruct=dict(every=5_000),
        traversals=dict(every=5_000),
    )
    small = {"method.net.encoder.width": 32, "method.net.decoder.width": 32, "method.net.latent": 8}
    return tiny(c, **small, **{"method.iwae_samples": 4}) if arg == "tiny" else c
