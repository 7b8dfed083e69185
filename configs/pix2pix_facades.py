"""pix2pix (Isola et al. 2016, arXiv:1611.07004) on pictures that hold a photo and its labels side by side, such as CMP facades.

python -m jaxgen.main --config=pix2pix_facades --config.data.path=~/facades --workdir=runs/facades      # labels -> photo
python -m jaxgen.main --workdir=runs/facades --mode=sample --num=16     # given, made, original, in turn

The photo is the left half (--config.data.direction=ab makes labels of photos). For a GPU; 64x64 on a CPU:
--config.data.size=64 --config.data.batch=4 --config.method.gen.downs=6 --config.method.gen.width=32 --config.method.disc.width=32
The norm is by instance, so that a sample depends on no other. The paper's own batch norm, by the statistics of what is sampled:
--config.method.gen.norm=batch --config.method.disc.norm=batch --config.method.stats=batch --config.data.batch=1
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=200, save_every=5_000))
    c.data = dict(name="pairs", path="", direction="ba", size=256, batch=1, augment=("flip", dict(name="crop", pad=15)))
    adam = dict(name="adam", lr=2e-4, b1=0.5, schedule="half_linear")
    c.method = dict(
        name="gan",
        loss="nonsaturating",
        pixel_loss=dict(name="l1", strength=100.0),
        gen=dict(name="unet_translator", width=64, downs=8, dropout=0.5, norm="instance", optimizer=adam),
        disc=dict(name="patchgan", width=64, layers=3, norm="instance", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=16), from_conditions=dict(num=64))
    if arg == "tiny":
        c.tasks = dict(hide=dict())  # there are no files of pairs: a hidden part is made of what is shown
        return tiny(c, **TINY)
    return c


TINY = {
    "data.augment": ("flip",), "method.gen.width": 4, "method.gen.downs": 4, "method.disc.width": 4, "method.disc.layers": 1,
}  # fmt: skip
