"""MaskGIT (Chang et al. 2022, arXiv:2202.04200) over the 16x16 codes of a VQGAN, ImageNet at 256x256, told the label.

python -m jaxgen.main --config=vqgan_imagenet256 --workdir=runs/vqgan_imagenet256    # first the codes
python -m jaxgen.main --config=maskgit_imagenet256 --workdir=runs/tokens --config.tasks.codec.run=runs/vqgan_imagenet256

Published: FID 6.18 in 8 passes without guidance; 6.80 in the re-implementation whose sizes these are
(valeoai/Halton-MaskGIT, arXiv:2310.14400). A folder of pictures with a folder for every class. For GPUs:
--config.method.net.dtype=bfloat16.
The first stage is copied into the run's directory, which is then enough to sample, complete and evaluate.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_500_000, log_every=100, save_every=10_000))
    c.data = dict(name="folder", path="", size=256, batch=256, labels=True, augment=("flip",))
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="masked_tokens",
        net=dict(
            name="masked_transformer", depth=24, width=768, heads=16, dropout=0.1, null_label=True, scan=True,
            optimizer=dict(name="adam", lr=1e-4, b2=0.96, weight_decay=4.5e-2, warmup=2_500, clip=1.0),
            ema=0.9999,
        ),
        condition_dropout=0.1,
        passes=8,
        guide=dict(name="rising", scale=3.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000), grid=dict(every=10_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2, "method.passes": 3}
