"""DALL-E (Ramesh et al. 2021, arXiv:2102.12092) on MNIST, told number words: minutes on a laptop CPU.

python -m jaxgen.main --config=vqvae_mnist --workdir=runs/vqvae_mnist    # first the codes
python -m jaxgen.main --config=dalle_mnist --workdir=runs/dalle --config.tasks.codec.run=runs/vqvae_mnist
python -m jaxgen.main --workdir=runs/dalle --mode=sample --num=8 --prompt="a seven"

Captions are made of the labels by templates. Codes of 7x7 tokens; the first stage is copied into the run's directory.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(
        name="tfds", dataset="mnist", batch=32, labels=False, templates=("a {label}", "the digit {label}", "a handwritten {label}"),
        tokenizer=dict(name="bytes", length=16, vocab=320),
    )  # fmt: skip
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="text_image_tokens",
        net=dict(
            name="text_image_transformer", depth=4, width=128, heads=4,
            optimizer=dict(name="adam", lr=1e-3, b2=0.98, weight_decay=0.01, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        condition_dropout=0.1,
        guide=dict(name="cfg", scale=2.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
