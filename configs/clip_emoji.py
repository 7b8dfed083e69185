"""CLIP (Radford et al. 2021, arXiv:2103.00020), small, on 64x64 pictures of your own with captions, such as emoji.

python -m jaxgen.main --config=clip_emoji --config.data.path=~/pictures --workdir=runs/clip    # add :tiny for a CPU run of seconds

In the folder is a captions.jsonl, or a text file beside every picture. It chooses the best of several samples (--best-of=16
--ranker=runs/clip), and measures `retrieval`.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=5_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="folder", path="", size=64, batch=128, tokenizer=dict(name="bytes", vocab=1_024, length=32))
    c.method = dict(
        name="contrastive",
        net=dict(
            name="two_towers",
            encoder=dict(name="vit_encoder", width=192, depth=4, heads=6, patch=8, dropout=0.1),
            text=dict(name="text_transformer", depth=2, width=128, heads=4, dropout=0.1),
            optimizer=dict(name="adam", lr=5e-4, b2=0.98, weight_decay=0.1, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), retrieval=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.encoder": dict(name="vit_encoder", width=8, depth=1, heads=2, patch=4), "method.net.text.depth": 1,
    "method.net.text.width": 8, "method.net.text.heads": 2, "method.net.dim": 8,
    "data.tokenizer.length": 24, "data.tokenizer.vocab": 512,
}  # fmt: skip
