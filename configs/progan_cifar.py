"""ProGAN (Karras et al. 2017, arXiv:1710.10196, table 3) on CIFAR-10: inception score 8.80 unsupervised, 4 -> 8 -> 16 -> 32.

400,000 images to take up a size and as many to settle, 128 channels at most, gradient penalty with a slope of 750.

python -m jaxgen.main --config=configs/progan_cifar.py --workdir=runs/progan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

BATCH = 16
STAGE = 400_000 // BATCH  # steps in which a size is taken up, and as many to settle
UNTIL = (STAGE, 3 * STAGE, 5 * STAGE)  # of 4x4, 8x8 and 16x16


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=12_000_000 // BATCH, log_every=500, save_every=STAGE))
    c.data = dict(name="tfds", dataset="cifar10", batch=BATCH, augment=("flip",))
    adam = dict(name="adam", lr=1e-3, b1=0.0, b2=0.99)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="wasserstein",
        disc_penalties=(dict(name="gradient", strength=10.0, target=750.0), "drift"),
        fade=dict(name="linear", steps=STAGE),
        gen=dict(name="progan_generator", channels=4096, most=128, optimizer=adam, ema=0.999),
        disc=dict(name="progan_discriminator", channels=4096, most=128, optimizer=adam),
    )
    c.tasks = dict(coarse=dict(factor=1))
    c.phases = tuple({"until": until, "tasks.coarse.factor": 8 >> i} for i, until in enumerate(UNTIL))
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
