"""ProGAN (Karras et al. 2017, arXiv:1710.10196) on CelebA at 128x128, 4 -> 8 -> ... -> 128.

800,000 images to take up a size and as many to settle; the channels of the paper.

python -m jaxgen.main --config=configs/progan_celeba.py --workdir=runs/progan_celeba    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

BATCH = 16
STAGE = 800_000 // BATCH  # steps in which a size is taken up, and as many to settle
UNTIL = tuple((2 * i + 1) * STAGE for i in range(5))  # of 4x4, 8x8, ... 64x64


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=UNTIL[-1] + 2 * STAGE, log_every=500, save_every=STAGE))
    c.data = dict(name="tfds", dataset="celeb_a", size=128, label_key="", batch=BATCH, augment=("flip",))
    adam = dict(name="adam", lr=1e-3, b1=0.0, b2=0.99)
    c.method = dict(
        name="gan",
        z_dim=512,
        loss="wasserstein",
        disc_penalties=(dict(name="gradient", strength=10.0), "drift"),
        fade=dict(name="linear", steps=STAGE),
        gen=dict(name="progan_generator", channels=16384, most=512, optimizer=adam, ema=0.999),
        disc=dict(name="progan_discriminator", channels=16384, most=512, optimizer=adam),
    )
    c.tasks = dict(coarse=dict(factor=1))
    c.phases = tuple({"until": until, "tasks.coarse.factor": 32 >> i} for i, until in enumerate(UNTIL))
    c.eval = dict(loss=dict(every=STAGE), grid=dict(every=STAGE))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "phases": ({"until": 2, "tasks.coarse.factor": 2},),
    "method.fade.steps": 2,
    "method.gen.channels": 64,
    "method.gen.base": 8,
    "method.disc.channels": 64,
    "method.disc.base": 8,
}
