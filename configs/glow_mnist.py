"""Glow (Kingma & Dhariwal 2018, arXiv:1807.03039) on MNIST: two levels (28 halves twice) of 16 steps, width 128.

The paper has no MNIST; what this reaches in ten minutes on two cores stands in experiments/likelihood.

python -m jaxgen.main --config=configs/glow_mnist.py --workdir=runs/glow_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=100, save_every=5_000))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    c.method = dict(
        name="flow",
        net=dict(
            name="glow",
            levels=2,
            depth=16,
            width=128,
            optimizer=dict(name="adamax", lr=1e-3, warmup=1_000),
            ema=0.999,
        ),
        dequantise=dict(name="importance", draws=16),
    )
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=0), grid=dict(every=5_000))
    small = {"method.net.width": 8, "method.net.depth": 2, "method.dequantise.draws": 2}
    return tiny(c, **small) if arg == "tiny" else c
