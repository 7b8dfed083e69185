"""PixelRNN with row LSTMs (van den Oord et al. 2016, arXiv:1601.06759) on dynamically binarised MNIST.

Published: 80.54 nats. The paper's MNIST is binarised once; here a pixel is drawn anew each time.

python -m jaxgen.main --config=configs/pixelrnn_row_mnist.py --workdir=runs/pixelrnn_row_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=200_000, save_every=10_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=16)
    c.method = dict(
        name="autoregressive",
        net=dict(
            name="pixelrnn_row", width=16, depth=7, hidden=32,
            optimizer=dict(name="rmsprop", lr=1e-3, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        likelihood="bernoulli",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=20_000), grid=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.hidden": 8}
