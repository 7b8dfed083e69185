"""MUSE (Chang et al. 2023, arXiv:2301.00704) on 64x64 pictures of your own with captions, such as emoji.

python -m jaxgen.main --config=dvae_shapes --workdir=runs/dvae --config.data=folder --config.data.path=~/pictures \
    --config.data.size=64 --config.method.net.encoder.downs=3 --config.method.net.decoder.downs=3    # first the codes
python -m jaxgen.main --config=muse_emoji --config.data.path=~/pictures --workdir=runs/muse --config.tasks.codec.run=runs/dvae

In the folder is a captions.jsonl, or a text file beside every picture. Add :tiny for a CPU run of seconds.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="folder", path="", size=64, batch=32, tokenizer=dict(name="bytes", vocab=1_024, length=32))
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="masked_tokens",
        net=dict(
            name="uvit_masked", positions=True,
            embed=192, channels=192, blocks=2, block_heads=6, width=256, depth=4, heads=8, hidden=704,
            text=dict(name="text_transformer", depth=2, width=128, heads=4),
            optimizer=dict(name="adam", lr=5e-4, b2=0.98, weight_decay=0.05, warmup=500, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        condition_dropout=0.1,
        passes=12,
        guide=dict(name="rising", scale=3.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {f"method.net.{key}": 8 for key in ("embed", "channels", "width", "hidden", "text.width")}
TINY |= {f"method.net.{key}": 2 for key in ("heads", "block_heads")} | {"method.net.depth": 1, "method.passes": 3}
TINY |= {"method.net.blocks": 1, "method.net.text.depth": 1, "data.tokenizer.length": 24, "data.tokenizer.vocab": 512}
