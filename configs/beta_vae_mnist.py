"""beta-VAE whose latents gain capacity step by step (Burgess et al. 2018, arXiv:1804.03599) on binarised MNIST.

Their numbers are of dSprites: gamma 1000 and up to 25 nats in 100,000 steps, ten latents, four convolutions. MNIST has
no factors to compare with; `eval.traversals` draws what each latent does.

python -m jaxgen.main --config=configs/beta_vae_mnist.py --workdir=runs/beta_vae_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=30_000, log_every=500, save_every=10_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    c.method = dict(
        name="vae",
        net=dict(
            name="vae_net",
            latent=10,
            encoder=dict(name="mlp_encoder", width=400, depth=2, act="relu"),
            decoder=dict(name="mlp_decoder", width=400, depth=2, act="relu"),
            optimizer=dict(name="adam", lr=5e-4),
        ),
        likelihood=dict(name="bernoulli", binarize="dynamic"),
        beta=30.0,
        capacity=25.0,
        capacity_steps=20_000,
    )
    c.eval = dict(
        loss=dict(every=5_000), grid=dict(every=5_000), reconstruct=dict(every=5_000), traversals=dict(every=5_000)
    )
    small = {"method.net.encoder.width": 32, "method.net.decoder.width": 32, "method.net.latent": 8}
    return tiny(c, **small, **{"method.iwae_samples": 4}) if arg == "tiny" else c
