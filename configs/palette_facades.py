"""Palette (Saharia et al. 2021, arXiv:2111.05826): diffusion that is told a picture, on CMP facades.

python -m jaxgen.main --config=palette_facades --config.data.path=~/facades --workdir=runs/palette      # labels -> photo
python -m jaxgen.main --workdir=runs/palette --mode=sample --num=16     # given, made, original, in turn

What is told stands beside the noisy picture; of both losses of the paper the square, whose samples vary more. 64x64, for a GPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=200, save_every=5_000))
    c.data = dict(name="pairs", path="", direction="ba", size=64, batch=16, augment=("flip", dict(name="crop", pad=4)))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=64, mults=(1, 2, 4, 8), blocks=2, attend=(16, 8), dropout=0.2,
            optimizer=dict(name="adam", lr=1e-4, warmup=1_000, clip=1.0), ema=0.9999,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="eps",
        solver=dict(name="ddim", steps=50, eta=1.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=16), from_conditions=dict(num=64))
    if arg == "tiny":
        c.tasks = dict(hide=dict())  # there are no files of pairs: a hidden part is made of what is shown
        return tiny(c, **TINY)
    return c


TINY = {
    "data.augment": ("flip",), "method.net.width": 16, "method.net.mults": (1,), "method.net.blocks": 1, "method.net.attend": (),
    "method.net.groups": 8, "method.solver.steps": 4,
}  # fmt: skip
