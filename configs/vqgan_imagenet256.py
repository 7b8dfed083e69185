"""VQGAN (Esser et al. 2020, arXiv:2012.09841) on ImageNet at 256 pixels: 16x16 codes of 1,024 (f16).

python -m jaxgen.main --config=vqgan_imagenet256 --workdir=runs/vqgan    # add :tiny for a CPU run of seconds

Needs ImageNet as TFDS prepares it and the VGG of LPIPS, which is downloaded (553 MB) or named by method.perceptual.path.
The paper's rate is 4.5e-6 for each image of an update.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_000_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="imagenet2012", eval_split="validation", size=256, batch=24, augment=("flip",))
    adam = dict(name="adam", lr=4.5e-6 * 24, b1=0.5, b2=0.9)
    c.method = dict(
        name="vqgan",
        ae=dict(
            name="ldm_autoencoder", width=128, mults=(1, 1, 2, 2, 4), blocks=2, attend=(4,), z=256,
            regularizer=dict(name="gradient_quantizer", codes=1024, dim=256, beta=0.25, legacy=True, start="uniform", dead=0.0),
            optimizer=adam,
        ),
        disc=dict(name="patchgan", width=64, layers=3, optimizer=adam),
        perceptual=dict(name="lpips", trunk="vgg"),
        disc_weight=0.8,
        disc_start=250_001,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000), reconstruct=dict(every=10_000), codes=dict(every=10_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.ae.width": 8, "method.ae.mults": (1, 1), "method.ae.blocks": 1, "method.ae.groups": 4, "method.ae.z": 4,
    "method.ae.attend": (), "method.ae.attend_mid": False, "method.ae.regularizer.codes": 8, "method.ae.regularizer.dim": 4,
    "method.disc.width": 8, "method.disc.layers": 1,
    "method.perceptual": {"name": "none"}, "method.disc_start": 1, "method.disc_warmup": 1,
}  # fmt: skip
