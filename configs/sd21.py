"""Stable Diffusion 2.1 (Rombach et al. 2022, arXiv:2112.10752) at its size: 768 pixels, a UNet of 866 M parameters, OpenCLIP.

python -m jaxgen.main --config=sd21:DIR --config.data.path=~/pictures --workdir=runs/own

As sd15 (DIR, captions, tuning, LoRA, a GPU, :tiny), but that the net predicts v, that heads have 64 channels, and that the text
is OpenCLIP's before its last block, which the published encoder lacks. Its model card has the recipe of sd15: batches of 2,048;
155,000 steps at this size, after 850,000 at 512 pixels.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "Stable Diffusion 2.1"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=155_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=768, batch=2_048,
        tokenizer=dict(name="clip", path=part("tokenizer"), pad="!"),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))))
    clip = dict(name="published_text", path=part("text_encoder"))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=320, mults=(1, 2, 4, 4), blocks=2, heads=(5, 10, 20, 20), linear_projection=True,
            attend_down=(True, True, True, False), attend_up=(True, True, True, False),
            optimizer=dict(name="adam", lr=1e-4, warmup=10_000, weight_decay=0.01),
            ema=0.9999,
        ),
        text_encoder=dict(name="frozen", run=clip, masked=False, pooled=False),
        process=dict(name="vp", schedule="scaled_linear", steps=1000, beta_min=0.00085, beta_max=0.012),
        predict="v",
        condition_dropout=0.1,
        solver=dict(
            name="ddim", steps=50, clip=False, rederive=False, grid=dict(name="leading", offset=1, stop="first")
        ),
        guide=dict(name="cfg", scale=7.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.heads": (2,),
    "method.net.attend_up": (True,), "method.net.groups": 4, "method.net.blocks": 1, "method.solver.steps": 3,
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
