"""CLIP (Radford et al. 2021, arXiv:2103.00020), small, on 32x32 rendered shapes: minutes on a laptop CPU.

python -m jaxgen.main --config=clip_shapes --workdir=runs/clip    # add :tiny for a CPU run of seconds
python -m jaxgen.main --workdir=runs/dalle --mode=sample --prompt="a red star" --best-of=16 --ranker=runs/clip
python -m jaxgen.main --workdir=runs/dalle --mode=eval --config.eval.retrieval.judge=runs/clip

It chooses the best of several samples, and measures `retrieval`: whether the text of a picture is found among those of 99 others.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=2_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, num=20_000, batch=128, tokenizer=dict(name="bytes", length=24, vocab=512))
    c.method = dict(
        name="contrastive",
        net=dict(
            name="two_towers",
            encoder=dict(name="conv_encoder", width=48, hidden=48, downs=2, blocks=2),
            text=dict(name="text_transformer", depth=2, width=64, heads=2),
            optimizer=dict(name="adam", lr=1e-3, b2=0.98, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=500), retrieval=dict(every=500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.encoder.width": 8, "method.net.encoder.hidden": 8, "method.net.encoder.blocks": 1, "method.net.text.depth": 1,
    "method.net.text.width": 8, "method.net.dim": 8,
}  # fmt: skip
