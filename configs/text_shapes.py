"""Flow matching (Lipman et al. 2023, arXiv:2210.02747) on 32x32 rendered shapes that are told by captions.

python -m jaxgen.main --config=configs/text_shapes.py --workdir=runs/text_shapes    # add :tiny for a CPU run of seconds
python -m jaxgen.main --workdir=runs/text_shapes --mode=sample --num=8 --prompt="a large red star at the top left, on white"

Captions become bytes, merged where they repeat; an encoder of the net's own makes states of them, to which the net attends.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, batch=32, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=32, mults=(1, 2, 2), blocks=1, heads=4, groups=8,
            attend_down=(False, True, True), attend_up=(False, True, True),
            text=dict(name="text_transformer", depth=1, width=64, heads=2),
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process="linear",
        predict="velocity",
        times="uniform",
        condition_dropout=0.1,
        solver=dict(name="euler", steps=25, space="time"),
        guide=dict(name="cfg", scale=3.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000, num=256), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1, 1), "method.net.attend_down": (False, False), "method.net.heads": 2,
    "method.net.attend_up": (False, False), "method.net.groups": 4, "method.net.text.width": 8, "method.solver.steps": 3,
}  # fmt: skip
