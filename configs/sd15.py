"""Stable Diffusion 1.5 (Rombach et al. 2022, arXiv:2112.10752) at its size: 512 pixels, a UNet of 860 M parameters, CLIP ViT-L/14.

python -m jaxgen.main --config=sd15:DIR --config.data.path=~/pictures --workdir=runs/own

DIR is diffusers' folder of the model, or a folder with its `tokenizer`, `text_encoder` and `vae` alone. In the folder of
pictures is a captions.jsonl, or a text file beside every picture. Without more the net is trained from nothing, as its model
card says (batches of 2,048 on 256 A100). The published net is tuned, whole or by LoRA, where it was imported first:

python -m jaxgen.pretrained convert DIR runs/sd15 --to=run
python -m jaxgen.main --config=sd15:DIR --config.init=runs/sd15 --config.data.path=~/pictures --workdir=runs/tuned \
    --config.data.batch=4 --config.method.net.optimizer.lr=1e-5 --config.method.net.optimizer.warmup=0 --config.steps=10_000
python -m jaxgen.main --config=lora_emoji:runs/sd15 --config.data.path=~/pictures --workdir=runs/style

On a GPU add --config.method.net.dtype=bfloat16 --config.method.net.remat=True. With :tiny in place of :DIR it runs on a CPU in
seconds.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "Stable Diffusion 1.5"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=595_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=512, batch=2_048,
        tokenizer=dict(name="clip", path=part("tokenizer")),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))))
    clip = dict(name="published_text", path=part("text_encoder"))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=320, mults=(1, 2, 4, 4), blocks=2, heads=8,
            attend_down=(True, True, True, False), attend_up=(True, True, True, False),
            optimizer=dict(name="adam", lr=1e-4, warmup=10_000, weight_decay=0.01),
            ema=0.9999,
        ),
        text_encoder=dict(name="frozen", run=clip, masked=False, pooled=False),
        process=dict(name="vp", schedule="scaled_linear", steps=1000, beta_min=0.00085, beta_max=0.012),
        predict="eps",
        condition_dropout=0.1,
        solver=dict(name="pndm", steps=50, grid=dict(name="leading", offset=1, stop="first")),
        guide=dict(name="cfg", scale=7.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.heads": 2,
    "method.net.attend_up": (True,), "method.net.groups": 4, "method.net.blocks": 1, "method.solver.steps": 3,
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
