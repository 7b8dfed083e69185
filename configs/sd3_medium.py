"""Stable Diffusion 3 medium (Esser et al. 2024, arXiv:2403.03206) at its size: 1024 pixels, an MMDiT of 2.03 G parameters.

python -m jaxgen.main --config=sd3_medium:DIR --config.data.path=~/pictures --workdir=runs/own

As sd15 (captions, tuning, LoRA, a GPU, :tiny). DIR is diffusers' folder, or one with its `tokenizer`, `tokenizer_2`,
`tokenizer_3`, `text_encoder`, `text_encoder_2`, `text_encoder_3` and `vae` (16 channels): CLIP ViT-L/14 and OpenCLIP
ViT-bigG/14 side by side, T5-XXL behind them. Each encoder's text is lost for 46.4 % of the examples, all three for 10 %.
Noisier times, and shifted ones in sampling, are those for this size (section 5.3.2); the paper's 500,000 steps of 4,096
pictures are at 256 pixels, with method.times.mean=0.
"""

from math import log

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "Stable Diffusion 3 medium"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=500_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=1024, batch=4_096,
        tokenizer=(
            dict(name="clip", path=part("tokenizer")), dict(name="clip", path=part("tokenizer_2"), pad="!"),
            dict(name="t5", path=part("tokenizer_3"), length=256),
        ),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))))
    clips = [
        dict(name="published_text", path=part(name), states="penultimate")
        for name in ("text_encoder", "text_encoder_2")
    ]
    t5 = dict(name="published_text", path=part("text_encoder_3"), pads=True)
    told = dict(name="frozen", masked=False, dropout=0.464)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="mmdit", depth=24, width=1536, heads=24, positions=192,
            optimizer=dict(name="adam", lr=1e-4, warmup=1_000, weight_decay=0.01),
            ema=0.9999,
        ),
        text_encoder=(*(dict(run=clip, **told) for clip in clips), dict(run=t5, join="behind", **told)),
        process=dict(name="linear", scale=1000.0),
        predict="flow",
        times=dict(name="logit_normal", mean=log(3.0)),
        solver=dict(name="euler", steps=28, space="time", grid=dict(name="flow", shift=3.0, first=0.003 / 1.002)),
        guide=dict(name="cfg", scale=7.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.depth": 2, "method.net.heads": 2, "method.net.positions": 8, "method.solver.steps": 3,
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "method.condition_dropout": 0.1,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
