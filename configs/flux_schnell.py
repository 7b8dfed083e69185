"""FLUX.1 schnell (Black Forest Labs 2024) at its size: 1024 pixels, a transformer of 11.9 G parameters, CLIP and T5-XXL.

python -m jaxgen.main --config=flux_schnell:DIR --config.data.path=~/pictures --workdir=runs/own

As sd15 (captions, tuning, LoRA, :tiny). DIR is diffusers' folder, or one with its `tokenizer`, `tokenizer_2`, `text_encoder`,
`text_encoder_2` and `vae` (16 channels). CLIP ViT-L/14 tells what it pools, T5-XXL its states of 256 tokens. How it was trained
is not published, but that it was distilled to four unguided steps (arXiv:2403.12015); here it is a flow (arXiv:2403.03206), as
those who tune it have it. It wants several GPUs: --config.sharding="((r'.*', 'fsdp'),)" --config.method.net.dtype=bfloat16
--config.method.net.remat=True.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "FLUX.1 schnell"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=1024, batch=256,
        tokenizer=(
            dict(name="clip", path=part("tokenizer")), dict(name="t5", path=part("tokenizer_2"), length=256),
        ),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))))
    clip, t5 = (dict(name="published_text", path=part(name)) for name in ("text_encoder", "text_encoder_2"))
    told = dict(name="frozen", masked=False)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="flux", double=19, single=38, width=3072, heads=24, axes=(16, 56, 56),
            optimizer=dict(name="adam", lr=1e-5, warmup=1_000, weight_decay=0.01),
        ),
        text_encoder=(dict(run=clip, states=False, **told), dict(run={**t5, "pads": True}, **told)),
        process=dict(name="linear", scale=1.0),
        predict="flow",
        times="logit_normal",
        solver=dict(name="euler", steps=4, space="time", grid=dict(name="flow", shift=1.0, first=0.0)),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.double": 1, "method.net.single": 1, "method.net.heads": 2, "method.net.axes": (2, 4, 2),
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
