"""DiT-XL/2 (Peebles & Xie 2023, arXiv:2212.09748) on the pixels of CIFAR-10. Paper, ImageNet-256 latents: FID 19.47 at 400k steps.

python -m jaxgen.main --config=configs/dit_xl.py --workdir=runs/dit_xl

The paper's optimizer (AdamW without decay or warm-up), EMA, learned variance, label dropout and 250 sampling steps; 256 tokens,
as many as its latents have. That figure is without guidance; --config.method.guide=cfg guides by 1.5.
The blocks are one scan, so compiling takes no longer than for a small net. Hardware of the paper: a TPU v3-256 pod, 7 M steps
to its FID of 2.27 with guidance 1.5; add --config.method.net.dtype=bfloat16 --config.method.net.remat=True on a GPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=400_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=256, labels=True, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="dit", patch=2, depth=28, width=1152, heads=16, null_label=True, out_channels=6, scan=True,
            optimizer=dict(name="adam", lr=1e-4),
            ema=0.9999,
        ),
        process=dict(name="vp", schedule="linear", steps=1000),
        predict="eps",
        objective="hybrid",
        condition_dropout=0.1,
        solver=dict(name="ancestral", steps=250, variance="learned"),
        nll=dict(name="bound", variance="learned"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=10_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 32, "method.net.depth": 2, "method.net.heads": 2, "method.solver.steps": 4,
}  # fmt: skip
