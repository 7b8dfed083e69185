"""DDPM with the cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672) on CIFAR-10. Paper: FID 2.90 after 500k steps.

python -m jaxgen.main --config=configs/ddpm_cosine_cifar.py --workdir=runs/ddpm_cosine_cifar

L_simple with the paper's net, 4,000 steps and, for this schedule, dropout of 0.3; the published program mirrors no images.
The variance is fixed; configs/iddpm_cifar.py learns it and needs far fewer steps to sample. The run sees 64 million
images: days on one GPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=500_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=128, mults=(1, 2, 2, 2), blocks=3, attend=(16, 8), heads=4, dropout=0.3,
            scale_shift=True, norm_eps=1e-5, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0.0,
            optimizer=dict(name="adam", lr=1e-4),
            ema=0.9999,
        ),
        process=dict(name="vp", schedule="cosine", steps=4000),
        predict="eps",
        solver=dict(name="ancestral", steps=4000, variance="large"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=20_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.groups": 8, "method.net.mults": (1,), "method.net.attend": (),
    "method.net.blocks": 1, "method.solver.steps": 4,
}  # fmt: skip
