"""SDXL's base (Podell et al. 2023, arXiv:2307.01952) at its size: 1024 pixels, a UNet of 2.57 G parameters, two CLIPs.

python -m jaxgen.main --config=sdxl:DIR --config.data.path=~/pictures --workdir=runs/own

As sd15 (captions, tuning, LoRA, a GPU, :tiny). DIR is diffusers' folder, or one with its `tokenizer`, `tokenizer_2`,
`text_encoder`, `text_encoder_2` and `vae`. CLIP ViT-L/14 and OpenCLIP ViT-bigG/14 stand side by side before their last block;
the net is told the second one's pooled vector and sizes too (section 2.2). Batches of 2,048 as in the paper, whose 600,000
steps are at 256 pixels, then 200,000 at 512, then pictures of many forms at this size; their rate is not told: that of Stable
Diffusion.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "SDXL"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=200_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=1024, batch=2_048,
        tokenizer=(
            dict(name="clip", path=part("tokenizer")), dict(name="clip", path=part("tokenizer_2"), pad="!"),
        ),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))), size=dict(form="crop"))
    clips = [
        dict(name="published_text", path=part(name), states="penultimate")
        for name in ("text_encoder", "text_encoder_2")
    ]
    told = dict(name="frozen", masked=False, null="zeros")
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=320, mults=(1, 2, 4), blocks=2, heads=(5, 10, 20), layers=(1, 2, 10),
            attend_down=(False, True, True), attend_up=(False, True, True), linear_projection=True,
            optimizer=dict(name="adam", lr=1e-4, warmup=10_000, weight_decay=0.01),
            ema=0.9999,
        ),
        text_encoder=(dict(run=clips[0], pooled=False, **told), dict(run=clips[1], **told)),
        process=dict(name="vp", schedule="scaled_linear", steps=1000, beta_min=0.00085, beta_max=0.012),
        predict="eps",
        condition_dropout=0.1,
        solver=dict(name="euler", steps=50, grid=dict(name="leading", offset=1)),
        guide=dict(name="cfg", scale=5.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.heads": (2,),
    "method.net.attend_up": (True,), "method.net.groups": 4, "method.net.blocks": 1, "method.solver.steps": 3,
    "method.net.layers": (2,), "method.net.size_waves": 8,
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
