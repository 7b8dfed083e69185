"""Glow (Kingma & Dhariwal 2018, arXiv:1807.03039) on CIFAR-10: 3 levels of 32 steps, couplings of width 512.

Published: 3.35 bits/dim. Batch 64 on each of 8 GPUs, Adamax 1e-3 after ten epochs of warm-up, an average over one epoch.

python -m jaxgen.main --config=configs/glow_cifar.py --workdir=runs/glow_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=150_000, log_every=100, save_every=5_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=512, augment=("flip",))
    c.method = dict(
        name="flow",
        net=dict(
            name="glow",
            levels=3,
            depth=32,
            width=512,
            optimizer=dict(name="adamax", lr=1e-3, warmup=980),
            ema=dict(name="decay", rate=1 - 512 / 50_000),
        ),
        dequantise=dict(name="importance", draws=16),
    )
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=0), grid=dict(every=5_000))
    small = {"method.net.width": 8, "method.net.depth": 2, "method.dequantise.draws": 2}
    return tiny(c, **small) if arg == "tiny" else c
