"""A transformer in LlamaGen's form (Sun et al. 2024, arXiv:2406.06525) over the codes of CIFAR-10, told the label.

python -m jaxgen.main --config=vqvae_cifar --workdir=runs/vqvae_cifar    # first the codes
python -m jaxgen.main --config=vqgan_transformer_cifar --workdir=runs/tokens --config.tasks.codec.run=runs/vqvae_cifar

Codes of 8x8 tokens; vqgan_cifar is a first stage too. No published figure. For a GPU: --config.method.net.dtype=bfloat16.
The first stage is copied into the run's directory, which is then enough to sample, complete and evaluate.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=100, save_every=5_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, labels=True, augment=("flip",))
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="causal_tokens",
        net=dict(
            name="causal_transformer", depth=12, width=512, heads=8, norm="rms", gated=True, mlp_ratio=8 / 3, positions="rope",
            use_bias=False, dropout=0.1, null_label=True,
            optimizer=dict(name="adam", lr=3e-4, b2=0.95, weight_decay=0.05, warmup=1_000, clip=1.0),
            ema=0.9999,
        ),
        condition_dropout=0.1,
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
