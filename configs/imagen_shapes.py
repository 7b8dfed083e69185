"""Imagen (Saharia et al. 2022, arXiv:2205.11487) on captioned scenes: the base, 16x16 pixels.

python -m jaxgen.main --config=imagen_shapes --workdir=runs/base    # add :tiny for a CPU run of seconds
python -m jaxgen.main --config=imagen_shapes_sr --workdir=runs/sr32 --config.data.size=32 --config.data.augment="()"
python -m jaxgen.main --config=imagen_shapes_sr --workdir=runs/sr64
python -m jaxgen.main --mode=sample --cascade=runs/base,runs/sr32,runs/sr64 --prompt="a large red star at the top left, on white"

The paper's text encoder is frozen (method.text_encoder, of published weights); without these the net has one of its own. Guidance
drives pixels beyond white: the solver limits them dynamically.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_500, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="shapes", size=16, batch=64, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="efficient_unet", width=48, mults=(1, 2), blocks=(1, 2), heads=4, groups=8,
            attend_down=(False, True), attend_up=(False, True),
            text=dict(name="text_transformer", depth=1, width=64, heads=2),
            optimizer=dict(name="adam", lr=1e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="v",
        condition_dropout=0.1,
        solver=dict(name="ddim", steps=50, clip=0.995),
        guide=dict(name="cfg", scale=2.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000, num=256), grid=dict(every=2_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.blocks": (1,), "method.net.attend_down": (True,),
    "method.net.attend_up": (True,), "method.net.heads": 2, "method.net.groups": 4, "method.net.text.width": 8,
    "method.solver.steps": 3, "data.size": 8,  # which imagen_shapes_sr:tiny enlarges to 16
}  # fmt: skip
