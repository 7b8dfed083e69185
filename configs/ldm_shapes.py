"""Latent diffusion told by captions (Rombach et al. 2022, arXiv:2112.10752) on scenes of 64 pixels, in the latents of TAEF2.

TAEF2 is a published autoencoder of 2.7 MB each way (github.com/madebyollin/taesd, MIT): a folder with taef2_encoder and
taef2_decoder. Latents are cached once, minutes, and trained on, minutes more, on a laptop CPU:

python -m jaxgen.main --config=ldm_shapes --mode=cache --workdir=runs/latents --config.tasks.codec.run.path=~/taef2
python -m jaxgen.main --config=ldm_shapes --workdir=runs/ldm --config.tasks.codec.run.path=~/taef2 \
    --config.data=latents --config.data.path=runs/latents --config.data.tokenizer=none
python -m jaxgen.main --workdir=runs/ldm --mode=sample --num=8 --prompt="a large red star at the top left, on white"

Another run is a codec too: --config.tasks.codec.run=run --config.tasks.codec.run.path=runs/kl. Flow matching, an encoder of the
net's own for the captions.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=5_000, log_every=200, save_every=2_500, steps_per_call=10))
    c.data = dict(name="shapes", size=64, batch=64, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.tasks = dict(codec=dict(run=dict(name="pretrained", path="")))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet_condition", width=48, mults=(1, 2), blocks=1, heads=4, groups=8, scale_shift=True,
            attend_down=(True, True), attend_up=(True, True),
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
    c.eval = dict(loss=dict(every=2_500, num=256), grid=dict(every=2_500, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.mults": (1,), "method.net.attend_down": (True,), "method.net.attend_up": (True,),
    "method.net.heads": 2, "method.net.groups": 4,
    "method.net.text.width": 8, "method.solver.steps": 3, "tasks.codec.run": {"name": "run", "path": ""},
}  # fmt: skip
