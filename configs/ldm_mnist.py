"""Latent diffusion (Rombach et al. 2022, arXiv:2112.10752) of MNIST, told by words ("the number seven"): minutes on a laptop CPU.

python -m jaxgen.main --config=vqvae_mnist --workdir=runs/vqvae_mnist    # first the codec, 7x7 vectors
python -m jaxgen.main --config=ldm_mnist --workdir=runs/ldm --config.tasks.codec.run=runs/vqvae_mnist
python -m jaxgen.main --workdir=runs/ldm --mode=sample --num=16 --prompt="the number seven"

The captions are `data.templates` of the labels, one drawn for every picture.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=64, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.data.templates = ("{label}", "a {label}", "the number {label}", "a {label} in somebody's hand")
    c.tasks = dict(codec=dict(run=dict(name="run", path="")))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=48, mults=(1, 2), blocks=1, heads=4, groups=8, scale_shift=True,
            attend_down=(False, True), attend_up=(False, True),
            text=dict(name="text_transformer", depth=1, width=64, heads=2),
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
    c.eval = dict(loss=dict(every=1_000, num=256), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.attend_up": (True,),
    "method.net.heads": 2, "method.net.groups": 4, "method.net.text.width": 8, "method.solver.steps": 3,
    "data.templates": ("{label}", "a {label}"),
}  # fmt: skip
