"""DDPM (Ho et al. 2020, arXiv:2006.11239) on CIFAR-10. Paper: FID 3.17, IS 9.46 after 800k steps.

python -m jaxgen.main --config=configs/ddpm_cifar.py --workdir=runs/ddpm_cifar

Hardware of the paper: TPU v3-8, 10.6 hours. The paper samples with 1,000 ancestral steps of fixed large variance.
For a GPU add --config.method.net.dtype=bfloat16. Fast samples: --config.method.solver=ddim --config.method.solver.steps=50.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=800_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=128, mults=(1, 2, 2, 2), blocks=2, attend=(16,), dropout=0.1,
            optimizer=dict(name="adam", lr=2e-4, warmup=5_000, clip=1.0),
            ema=0.9999,
        ),
        process=dict(name="vp", schedule="linear", steps=1000),
        predict="eps",
        solver=dict(name="ancestral", steps=1000, variance="large"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=10_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.groups": 8, "method.net.attend": (), "method.net.mults": (1, 2),
    "method.net.blocks": 1, "method.solver.steps": 4,
}  # fmt: skip
