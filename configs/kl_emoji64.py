"""The KL autoencoder of latent diffusion (Rombach et al. 2021, arXiv:2112.10752) on 64x64 pictures of your own, such as emoji: f4.

python -m jaxgen.main --config=classifier_cifar --workdir=runs/judge --config.data.name=folder --config.data.path=~/pictures \
    --config.data.size=64
python -m jaxgen.main --config=kl_emoji64 --config.data.path=~/pictures --workdir=runs/mine \
    --config.method.perceptual.path=runs/judge    # add :tiny for a CPU run of seconds

What pictures look like is judged by a classifier of the same pictures, which have a folder for each class. Without classes there is
none: --config.method.perceptual=lpips, or =none for pixels alone and D's word. D begins after a third of the run.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=100, save_every=5000))
    c.data = dict(name="folder", path="", size=64, batch=32)
    adam = dict(name="adam", lr=2e-4, b1=0.5, b2=0.9)
    c.method = dict(
        name="kl_autoencoder",
        ae=dict(
            name="ldm_autoencoder", width=32, mults=(1, 2, 2), blocks=2, z=4,
            regularizer=dict(name="normal", dim=4, kl_weight=1e-6),
            optimizer=adam,
        ),
        disc=dict(name="patchgan", width=32, layers=2, optimizer=adam),
        perceptual=dict(name="native", path=""),
        disc_weight=0.5,
        disc_start=0.33,
        disc_warmup=0.03,
        disc_ramp=0.07,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000), reconstruct=dict(every=2_000), latent_statistics=dict(every=0))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.ae.width": 8, "method.ae.mults": (1, 1), "method.ae.blocks": 1, "method.ae.groups": 4, "method.ae.z": 2,
    "method.ae.attend": (), "method.ae.attend_mid": False, "method.ae.regularizer.dim": 2,
    "method.disc.width": 8, "method.disc.layers": 1,
    "method.perceptual": {"name": "none"}, "method.reduce": "mean", "method.disc_start": 1, "method.disc_warmup": 1,
}  # fmt: skip
