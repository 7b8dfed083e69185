"""Captions of 64x64 pictures of your own, such as emoji: a vision transformer sees, a transformer says; an hour on a laptop CPU.

python -m jaxgen.main --config=captioner_emoji --config.data.path=~/pictures --workdir=runs/captioner    # or :tiny, in seconds

In the folder is a captions.jsonl, or a text file beside every picture.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=10_000, log_every=100, save_every=1_000))
    c.data = dict(name="folder", path="", size=64, batch=32, tokenizer=dict(name="bytes", vocab=1_024, length=32))
    c.tasks = dict(describe=dict())
    c.method = dict(
        name="captioner",
        net=dict(
            name="transformer_captioner", width=192, heads=6, depth=3, dropout=0.1,
            encoder=dict(name="vit_encoder", width=192, depth=4, heads=6, patch=8, dropout=0.1),
            optimizer=dict(name="adam", lr=5e-4, b2=0.98, weight_decay=0.05, warmup=500, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        attend_all=0.0,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), captions=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.heads": 2, "method.net.depth": 1,
    "method.net.encoder": dict(name="vit_encoder", width=8, depth=1, heads=2, patch=4), "method.beam": 2,
    "data.tokenizer.vocab": 384, "data.tokenizer.length": 24,
}  # fmt: skip
