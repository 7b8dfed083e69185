"""MeanFlow (Geng et al. 2025, arXiv:2505.13447) on CIFAR-10. Paper: FID 2.92 in one step.

python -m jaxgen.main --config=configs/meanflow_cifar.py --workdir=runs/meanflow_cifar

The paper's recipe for this set: the DDPM++ net of EDM told t and t - r, 800k steps of batch 1,024, three quarters of them
with r < t, p = 0.75, and EDM's augmentation without rotations and vertical flips.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=800_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=1024)
    c.data.augment = (dict(name="geometric", turn=0.0, upside=0.0),)
    c.method = dict(
        name="meanflow",
        net=dict(
            name="ddpmpp", width=128, mults=(2, 2, 2), blocks=4, attend=(16,), dropout=0.2,
            optimizer=dict(name="adam", lr=6e-4, warmup=10_000),
            ema=0.99995,
        ),
        process=dict(name="linear", scale=1.0),  # times stay in [0, 1]: the net is differentiated by them
        times=dict(name="logit_normal", mean=-2.0, std=2.0),
        share=0.75,
        power=0.75,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (), "method.net.blocks": 1,
    "method.sample_steps": 2,
}  # fmt: skip
