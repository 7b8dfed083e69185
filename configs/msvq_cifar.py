"""The multi-scale tokenizer of VAR (Tian et al. 2024, arXiv:2404.02905) on CIFAR-10: maps of 1, 2, 3, 4, 6 and 8 codes a side.

python -m jaxgen.main --config=msvq_cifar --workdir=runs/msvq_cifar \
    --config.method.perceptual.path=runs/classifier_cifar    # add :tiny for a CPU run of seconds

What pictures look like is judged by a classifier of the same data, trained first and named by method.perceptual.path; without one:
--config.method.perceptual=none. D begins after a third of the run, and counts a tenth later.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=60_000, log_every=100, save_every=5000))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, augment=("flip",))
    adam = dict(name="adam", lr=2e-4, b1=0.5, b2=0.9)
    c.method = dict(
        name="vqgan",
        ae=dict(
            name="ldm_autoencoder", width=32, mults=(1, 2, 2), blocks=2, z=64,
            regularizer=dict(name="multiscale_quantizer", codes=512, dim=64, sizes=(1, 2, 3, 4, 6, 8)),
            optimizer=adam,
        ),
        disc=dict(name="patchgan", width=32, layers=2, optimizer=adam),
        perceptual=dict(name="native", path=""),
        disc_weight=0.8,
        disc_start=0.33,
        disc_warmup=0.03,
        disc_ramp=0.07,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000), reconstruct=dict(every=2_000), codes=dict(every=2_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.ae.width": 8, "method.ae.mults": (1, 1), "method.ae.blocks": 1, "method.ae.groups": 4, "method.ae.z": 4,
    "method.ae.attend": (), "method.ae.attend_mid": False, "method.ae.regularizer.codes": 8, "method.ae.regularizer.dim": 4,
    "method.ae.regularizer.sizes": (1, 2, 8), "method.disc.width": 8, "method.disc.layers": 1,
    "method.perceptual": {"name": "none"}, "method.disc_start": 1, "method.disc_warmup": 1,
}  # fmt: skip
