"""pix2pix (Isola et al. 2016, arXiv:1611.07004) from line drawings to pictures in colour, two folders of the same names: emoji.

python -m jaxgen.main --config=pix2pix_emoji --config.data.path=~/drawings --config.data.path_b=~/pictures --workdir=runs/emoji
python -m jaxgen.main --workdir=runs/emoji --mode=sample --num=16     # given, made, original, in turn

64x64; names that are in one folder alone are left aside. Minutes on a GPU; add :tiny for seconds.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=200, save_every=5_000))
    c.data = dict(name="pairs", path="", path_b="", unmatched="skip", size=64, batch=8, augment=("flip",))
    adam = dict(name="adam", lr=2e-4, b1=0.5, schedule="half_linear")
    c.method = dict(
        name="gan",
        loss="nonsaturating",
        pixel_loss=dict(name="l1", strength=100.0),
        gen=dict(name="unet_translator", width=64, downs=6, dropout=0.5, norm="instance", optimizer=adam),
        disc=dict(name="patchgan", width=64, layers=2, norm="instance", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=16), from_conditions=dict(num=128))
    if arg == "tiny":
        c.tasks = dict(hide=dict())  # there are no files of pairs: a hidden part is made of what is shown
        return tiny(c, **TINY)
    return c


TINY = {"method.gen.width": 4, "method.gen.downs": 4, "method.disc.width": 4, "method.disc.layers": 1}
