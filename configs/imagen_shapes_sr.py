"""Imagen (Saharia et al. 2022, arXiv:2205.11487) on captioned scenes: the stage from 32 to 64 pixels, learned on pieces of 32.

python -m jaxgen.main --config=imagen_shapes_sr --workdir=runs/sr64    # add :tiny for a CPU run of seconds
python -m jaxgen.main --config=imagen_shapes_sr --workdir=runs/sr32 --config.data.size=32 --config.data.augment="()"     # 16 -> 32
python -m jaxgen.main --workdir=runs/sr64 --mode=sample --num=16 --config.tasks.shrink.noise=0.1

The small picture is noisy, by a level that the net is told: evenly spread in training, --config.tasks.shrink.noise=0.2 in samples.
How a cascade is sampled, see imagen_shapes. Unguided: its net is never without the small picture.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=2_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(
        name="shapes",
        size=64,
        batch=32,
        augment=(dict(name="piece", size=32),),
        tokenizer=dict(name="bytes", length=24, vocab=512),
    )
    c.tasks = dict(shrink=dict(factor=2, noise=True))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="efficient_unet", width=32, mults=(1, 2, 2), blocks=(1, 1, 2), heads=4, groups=8,
            attend_down=(False, False, True), attend_up=(False, False, True),
            text=dict(name="text_transformer", depth=1, width=64, heads=2),
            optimizer=dict(name="adam", lr=1e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="v",
        solver=dict(name="ddim", steps=25, clip=0.995),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000, num=256), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1, 2), "method.net.blocks": (1, 1), "method.net.attend_down": (False, True),
    "method.net.attend_up": (False, True), "method.net.heads": 2, "method.net.groups": 4, "method.net.text.width": 8,
    "method.solver.steps": 3, "data.augment": ({"name": "piece", "size": 8},),
}  # fmt: skip
