"""A transformer over the codes of MNIST (Esser et al. 2020, arXiv:2012.09841), told the label: minutes on a laptop CPU.

python -m jaxgen.main --config=vqvae_mnist --workdir=runs/vqvae_mnist    # first the codes
python -m jaxgen.main --config=vqgan_transformer_mnist --workdir=runs/tokens --config.tasks.codec.run=runs/vqvae_mnist

Codes of 7x7 tokens, drawn in reading order; vqgan_mnist is a first stage too. No published figure.
The first stage is copied into the run's directory, which is then enough to sample, complete and evaluate.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=2_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="tfds", dataset="mnist", batch=64, labels=True)
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="causal_tokens",
        net=dict(
            name="causal_transformer", depth=4, width=192, heads=6, dropout=0.1, null_label=True,
            optimizer=dict(name="adam", lr=1e-3, b2=0.95, weight_decay=0.05, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        condition_dropout=0.1,
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
