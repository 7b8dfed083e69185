"""PixelRNN with diagonal BiLSTMs (van den Oord et al. 2016, arXiv:1601.06759) on dynamically binarised MNIST.

Published: 80.75 nats with one layer of 32, 79.20 with seven of 16.
The paper's MNIST is binarised once; here a pixel is drawn anew each time.

python -m jaxgen.main --config=configs/pixelrnn_diagonal_mnist.py --workdir=runs/pixelrnn_diagonal_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=200_000, save_every=10_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=16)
    c.method = dict(
        name="autoregressive",
        net=dict(
            name="pixelrnn_diagonal", width=16, depth=7, hidden=32,
            optimizer=dict(name="rmsprop", lr=1e-3, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        likelihood="bernoulli",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=20_000), grid=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.hidden": 8}
