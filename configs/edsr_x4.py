"""EDSR's baseline (Lim et al. 2017, arXiv:1707.02921): photographs four times as large, in colour.

python -m jaxgen.main --config=edsr_x4 --config.data.path=~/photos --workdir=runs/edsr    # add :tiny for a CPU run of seconds
python -m jaxgen.main --workdir=runs/edsr --mode=eval --config.eval.benchmark.path=data/Set5/x4 --config.method.ensemble=True

The published recipe (DIV2K, 300,000 steps of 16 squares of 192 pixels) is for a GPU. On a CPU, minutes:
--config.method.net.blocks=8 --config.method.net.width=32 --config.data.size=96 --config.steps=3_000.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=300_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=192, stride=96, channels=3, batch=16, augment=("flip", "turn"))
    c.tasks = dict(shrink=dict(factor=4, how="matlab_bicubic_uint8"))
    c.method = dict(
        name="regress",
        net=dict(
            name="edsr", scale=4, blocks=16, width=64,
            optimizer=dict(name="adam", lr=1e-4, eps=1e-8, schedule="cosine"),
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), from_conditions=dict(every=5_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.blocks": 1, "method.net.width": 8}
