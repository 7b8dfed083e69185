"""ProGAN (Karras et al. 2017, arXiv:1710.10196) on MNIST, told the digit, padded to 32: 4 -> 8 -> 16 -> 32, for two cores.

Narrow nets; 20,000 images to take up a size, 20,000 to settle there, 60,000 for the last. Samples are cut to 28 again.

python -m jaxgen.main --config=configs/progan_mnist.py --workdir=runs/progan_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

BATCH = 16
STAGE = 20_000 // BATCH  # steps in which a size is taken up, and as many to settle
UNTIL = (STAGE, 3 * STAGE, 5 * STAGE)  # of 4x4, 8x8 and 16x16


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(
        dict(seed=0, steps=UNTIL[-1] + STAGE + 60_000 // BATCH, log_every=250, save_every=STAGE, steps_per_call=5)
    )
    c.data = dict(name="tfds", dataset="mnist", batch=BATCH, labels=True)
    adam = dict(name="adam", lr=1e-3, b1=0.0, b2=0.99)
    c.method = dict(
        name="gan",
        z_dim=64,
        loss="wasserstein",
        disc_penalties=(dict(name="gradient", strength=10.0), "drift"),
        fade=dict(name="linear", steps=STAGE),
        gen=dict(name="progan_generator", channels=1024, most=128, optimizer=adam, ema=0.999),
        disc=dict(name="progan_discriminator", channels=1024, most=128, optimizer=adam),
    )
    c.tasks = dict(coarse=dict(pad=2, factor=1))
    c.phases = tuple({"until": until, "tasks.coarse.factor": 8 >> i} for i, until in enumerate(UNTIL))
    c.eval = dict(loss=dict(every=STAGE), grid=dict(every=STAGE))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "phases": ({"until": 2, "tasks.coarse.factor": 2},),
    "tasks.coarse.pad": 0,
    "method.fade.steps": 2,
    "method.gen.channels": 64,
    "method.disc.channels": 64,
}
