"""SRCNN 9-1-5 (Dong et al. 2014, arXiv:1501.00092): photographs three times as large, by the luma; minutes on a CPU.

python -m jaxgen.main --config=srcnn_photos --config.data.path=~/photos --workdir=runs/srcnn    # add :tiny for seconds
python -m jaxgen.main --workdir=runs/srcnn --mode=eval --config.eval.benchmark.path=data/Set5/x3

Squares of 33 pixels out of a folder of pictures of any size. Another scale: --config.tasks.shrink.factor=2
--config.method.net.scale=2 --config.data.size=32; the larger net: '--config.method.net.kernels=(9, 5, 5)'.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=33, stride=14, channels=1, batch=128, augment=("flip", "turn"))
    c.tasks = dict(shrink=dict(factor=3, how="matlab_bicubic_uint8"))
    c.method = dict(
        name="regress",
        net=dict(
            name="srcnn", scale=3, kernels=(9, 1, 5), widths=(64, 32),
            optimizer=dict(name="adam", lr=1e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        pixel_loss="l2",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), from_conditions=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"data.size": 15, "method.net.widths": (8, 4), "method.net.kernels": (5, 1, 3)}
