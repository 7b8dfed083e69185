"""A transformer over the pixels of 8x8 digits, 17 levels, in reading order (Parmar et al. 2018, arXiv:1802.05751): exact bits/dim.

python -m jaxgen.main --config=image_transformer_digits --workdir=runs/image_transformer_digits    # add :tiny for seconds

Minutes on a laptop CPU. With --config.data.labels=True it is told the digit.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="digits", batch=64)
    c.method = dict(
        name="causal_tokens",
        net=dict(
            name="causal_transformer", depth=4, width=128, heads=4, dropout=0.2,
            optimizer=dict(name="adam", lr=1e-3, b2=0.95, weight_decay=0.1, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
    )  # fmt: skip
    c.eval = dict(likelihood=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
