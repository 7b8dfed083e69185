"""RealNVP (Dinh et al. 2016, arXiv:1605.08803) on MNIST: two scales, couplings of two blocks of 32.

The paper has no MNIST; what this reaches in ten minutes on two cores stands in experiments/likelihood.

python -m jaxgen.main --config=configs/realnvp_mnist.py --workdir=runs/realnvp_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=100, save_every=5_000))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    c.method = dict(
        name="flow",
        net=dict(
            name="realnvp",
            scales=2,
            width=32,
            blocks=2,
            unroll=4,
            optimizer=dict(name="adam", lr=1e-3, weight_decay=5e-5, decay=".*Conv.*/scale", clip=100.0),
            ema=0.999,
        ),
        dequantise=dict(name="importance", draws=16),
    )
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=0), grid=dict(every=5_000))
    small = {"method.net.width": 8, "method.net.blocks": 0, "method.net.unroll": 1, "method.dequantise.draws": 2}
    return tiny(c, **small) if arg == "tiny" else c
