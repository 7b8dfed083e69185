"""LoRA (Hu et al. 2021, arXiv:2106.09685) of a run that makes pictures of a text, trained on pictures of your own, such as emoji.

python -m jaxgen.main --config=lora_emoji:runs/base --config.data.path=~/pictures --workdir=runs/style    # :tiny runs in seconds
python -m jaxgen.main --workdir=runs/style --mode=sample --num=8 --prompt="a smiling cat"
python -m jaxgen.pretrained convert runs/style style.safetensors --to=peft

runs/base is a run of diffusion that is told a text: of ldm_emoji on pictures (not on cached latents), or one that was imported
(see docs/weights.md). All but what is trained is its own: net, codec, tokenizer, encoders of text, process. In the folder of
pictures is a captions.jsonl, or a text file beside every picture. Weights of the base stay as they are, and are read from where
they are.
"""

from pathlib import Path

from ml_collections import ConfigDict

from jaxgen.config.files import load, tiny
from jaxgen.errors import UserError

FOLDER = "a run, such as one of ldm_emoji"  # what the argument names


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "tiny") and not (Path(arg) / "config.json").is_file():
        raise UserError(
            f"{arg} holds no run (no config.json); name the directory of one; jaxgen.pretrained imports others' models"
        )
    c = load(arg if arg not in ("", "tiny") else "ldm_emoji")
    if c.data.name == "latents":
        raise UserError(
            f"{arg} was trained on cached latents, and its tokenizer is with their pictures; name a run of pictures"
        )
    kept = {k: c.data[k] for k in ("size", "tokenizer") if k in c.data}
    with c.unlocked(), c.ignore_type():
        c.data = dict(name="folder", path="", batch=16, **kept)
        c.method.net.adapter = dict(
            name="lora", rank=8, alpha=8.0, run=dict(name="run", path="" if arg == "tiny" else arg)
        )
        c.method.net.optimizer = dict(name="adam", lr=1e-4, weight_decay=0.01, clip=1.0)
        c.method.net.ema = "none"
        c.update(init="", phases=(), since=0, seed=0, steps=2_000, steps_per_call=1, log_every=50, save_every=500)
        c.eval = dict(loss=dict(every=500, num=64), grid=dict(every=500, num=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.attend_up": (True,),
    "method.net.heads": 2, "method.net.groups": 4, "method.net.text.width": 8, "method.net.text.depth": 1, "method.solver.steps": 3,
    "method.net.adapter.rank": 2,
    "data.tokenizer.length": 24, "data.tokenizer.vocab": 512, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
