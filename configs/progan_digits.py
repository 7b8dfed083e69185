"""ProGAN (Karras et al. 2017, arXiv:1710.10196) on the built-in 8x8 digits, told the digit, 4 -> 8: minutes on two cores.

python -m jaxgen.main --config=configs/progan_digits.py --workdir=runs/progan_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FIRST, FADE = 2_000, 1_000  # steps at 4x4; in which 8x8 is taken up


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=8_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=32, labels=True)
    adam = dict(name="adam", lr=1e-3, b1=0.0, b2=0.99)
    c.method = dict(
        name="gan",
        z_dim=32,
        loss="wasserstein",
        disc_penalties=(dict(name="gradient", strength=10.0), "drift"),
        fade=dict(name="linear", steps=FADE),
        gen=dict(name="progan_generator", channels=256, most=64, optimizer=adam, ema=0.999),
        disc=dict(name="progan_discriminator", channels=256, most=64, optimizer=adam),
    )
    c.tasks = dict(coarse=dict(factor=1))
    c.phases = ({"until": FIRST, "tasks.coarse.factor": 2},)
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "phases": ({"until": 2, "tasks.coarse.factor": 2},),
    "method.fade.steps": 2,
    "method.gen.channels": 64,
    "method.disc.channels": 64,
}
