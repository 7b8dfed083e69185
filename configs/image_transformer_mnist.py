"""A transformer over the pixels of binarised MNIST, in reading order (Parmar et al. 2018, arXiv:1802.05751): exact nats.

A pixel is black or white, drawn anew each time it is seen (Burda et al. 2015). No published figure for this net.

python -m jaxgen.main --config=image_transformer_mnist --workdir=runs/image_transformer_mnist    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=100, save_every=1_000))
    c.data = dict(name="tfds", dataset="mnist", batch=64)
    c.tasks = dict(levels=dict(num=2))
    c.method = dict(
        name="causal_tokens",
        net=dict(
            name="causal_transformer", depth=4, width=128, heads=4, dropout=0.1,
            optimizer=dict(name="adam", lr=1e-3, b2=0.95, weight_decay=0.1, warmup=500, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
    )  # fmt: skip
    c.eval = dict(likelihood=dict(every=5_000, num=2_000), grid=dict(every=1_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
