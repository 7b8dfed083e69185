"""Gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328) on the built-in 8x8 digits: minutes on two cores.

Bits are exact, and of the 17 levels that the digits have.

python -m jaxgen.main --config=configs/gated_pixelcnn_digits.py --workdir=runs/gated_pixelcnn_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=500, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    c.method = dict(
        name="autoregressive",
        net=dict(
            name="gated_pixelcnn", width=32, depth=6, hidden=64, dropout=0.3,
            optimizer=dict(name="adam", lr=1e-3, clip=1.0, schedule="cosine"),
            ema=0.99,
        ),
        likelihood="categorical",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=500), likelihood=dict(every=500), grid=dict(every=500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.hidden": 8}
