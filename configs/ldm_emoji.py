"""Latent diffusion told by captions (Rombach et al. 2022, arXiv:2112.10752) on pictures of your own, such as emoji: 64 pixels.

python -m jaxgen.main --config=ldm_emoji --mode=cache --workdir=runs/latents --config.data.path=~/pictures \
    --config.tasks.codec.run.path=~/taef2
python -m jaxgen.main --config=ldm_emoji --workdir=runs/ldm --config.tasks.codec.run.path=~/taef2 \
    --config.data=latents --config.data.path=runs/latents --config.data.tokenizer=none

The codec and the net are those of ldm_shapes. In the folder is a captions.jsonl, or a text file beside every picture. Few pictures
(3,000 emoji) are learned by heart: --config.eval.neighbours.num=64 shows how far.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=10_000, log_every=200, save_every=2_000, steps_per_call=5))
    c.data = dict(name="folder", path="", size=64, batch=64, tokenizer=dict(name="bytes", length=32, vocab=1_024))
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path="")))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=96, mults=(1, 2), blocks=1, heads=4, groups=8, scale_shift=True,
            attend_down=(True, True), attend_up=(True, True),
            text=dict(name="text_transformer", depth=2, width=128, heads=4),
            optimizer=dict(name="adam", lr=1e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
        process="linear",
        predict="velocity",
        times="logit_normal",
        condition_dropout=0.1,
        solver=dict(name="euler", steps=25, space="time"),
        guide=dict(name="cfg", scale=2.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000, num=256), grid=dict(every=2_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.attend_up": (True,),
    "method.net.heads": 2, "method.net.groups": 4, "method.net.text.width": 8, "method.net.text.depth": 1, "method.solver.steps": 3,
    "data.tokenizer.length": 24, "data.tokenizer.vocab": 512, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
