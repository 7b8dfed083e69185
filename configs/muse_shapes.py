"""MUSE (Chang et al. 2023, arXiv:2301.00704) on 32x32 rendered shapes: hidden codes of a picture, told a text by cross-attention.

python -m jaxgen.main --config=dvae_shapes --workdir=runs/dvae    # first the codes; add :tiny for a CPU run of seconds
python -m jaxgen.main --config=muse_shapes --workdir=runs/muse --config.tasks.codec.run=runs/dvae
python -m jaxgen.main --workdir=runs/muse --mode=sample --num=8 --prompt="a large red star at the top left, on white"

8x8 codes in 12 passes; guidance rises from none to `scale`. --negative="a large blue ring in the centre, on black" leads away
from a text. The first stage is copied into the run's directory.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, num=20_000, batch=32, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="masked_tokens",
        net=dict(
            name="uvit_masked", positions=True,
            embed=96, channels=96, blocks=1, block_heads=4, width=128, depth=3, heads=4, hidden=384,
            text=dict(name="text_transformer", depth=1, width=64, heads=2),
            optimizer=dict(name="adam", lr=2e-3, b2=0.98, weight_decay=0.01, warmup=200, clip=1.0, schedule="cosine"),
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
