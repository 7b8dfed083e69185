"""DALL-E (Ramesh et al. 2021, arXiv:2102.12092) on 32x32 rendered shapes: a text and its picture's codes are one sequence.

python -m jaxgen.main --config=dvae_shapes --workdir=runs/dvae    # first the codes; add :tiny for a CPU run of seconds
python -m jaxgen.main --config=dalle_shapes --workdir=runs/dalle --config.tasks.codec.run=runs/dvae
python -m jaxgen.main --workdir=runs/dalle --mode=sample --num=8 --prompt="a large red star at the top left, on white"

8x8 codes, drawn in reading order by a cache. The first stage is copied into the run's directory. A run of clip_shapes chooses
the best of several samples: --best-of=16 --ranker=runs/clip.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, num=20_000, batch=32, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.tasks = dict(codec=dict(run=dict(name="run", path=""), tokens=True))
    c.method = dict(
        name="text_image_tokens",
        net=dict(
            name="text_image_transformer", depth=4, width=128, heads=4,
            optimizer=dict(name="adam", lr=2e-3, b2=0.98, weight_decay=0.01, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        draw=dict(name="draw", top_p=0.9),
        condition_dropout=0.1,
        guide=dict(name="cfg", scale=2.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.heads": 2}
