"""PixArt-alpha (Chen et al. 2023, arXiv:2310.00426) at its size: 512 pixels, a transformer of 611 M parameters, T5-XXL.

python -m jaxgen.main --config=pixart_alpha:DIR --config.data.path=~/pictures --workdir=runs/own

As sd15 (captions, tuning, LoRA, a GPU, :tiny). DIR is diffusers' folder, or one with its `tokenizer`, `text_encoder` and `vae`:
T5-XXL's states of 120 tokens, pads hidden. The net says a variance too. Optimizer and batch (38 on each of 64 V100) are those
of the authors' last stage at this size. A net for 1024 pixels is told sizes: --config.tasks.size.form=ratio
--config.data.size=1024 --config.method.net.stretch=2.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

FOLDER = "PixArt-alpha"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    part = (lambda name: f"{arg}/{name}") if arg not in ("", "tiny") else lambda name: ""
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=100, save_every=10_000))
    c.data = dict(
        name="folder", path="", size=512, batch=2_432,
        tokenizer=dict(name="t5", path=part("tokenizer"), length=120),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path=part("vae"))))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="pixart", depth=28, width=1152, heads=16, out_channels=8,
            optimizer=dict(name="adam", lr=2e-5, warmup=1_000, weight_decay=0.03, eps=1e-10, clip=0.01),
            ema=0.9999,
        ),
        text_encoder=dict(name="frozen", run=dict(name="published_text", path=part("text_encoder"))),
        process=dict(name="vp", schedule="linear", steps=1000),
        predict="eps",
        objective="hybrid",
        condition_dropout=0.1,
        solver=dict(name="dpm_plus", order=2, steps=20, grid=dict(name="linspace", whole=True, spare=True)),
        guide=dict(name="cfg", scale=4.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000, num=256), grid=dict(every=10_000, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 12, "method.net.depth": 1, "method.net.heads": 2, "method.net.out_channels": 16, "method.solver.steps": 3,
    "method.net.text": {"name": "text_transformer", "depth": 1, "width": 8, "heads": 2}, "method.text_encoder": None,
    "data.tokenizer": {"name": "bytes", "length": 24}, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
