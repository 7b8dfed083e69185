"""Captions of rendered scenes: convolutions see, a transformer says; minutes on a laptop CPU.

python -m jaxgen.main --config=captioner_shapes --workdir=runs/captioner    # add :tiny for a CPU run of seconds
python -m jaxgen.main --workdir=runs/captioner --mode=caption --input=PICTURES

The tokens are learned from the captions. Every caption can be read back (jaxgen.data.scenes), so that kind, colour, size, place and
background are counted exactly. Scenes of several things: --config.data.max_shapes=2.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=2_000, log_every=100, save_every=1_000, steps_per_call=5))
    c.data = dict(name="shapes", size=32, batch=64, tokenizer=dict(name="bytes", vocab=384, length=24))
    c.tasks = dict(describe=dict())
    c.method = dict(
        name="captioner",
        net=dict(
            name="transformer_captioner", width=96, heads=4, depth=2, dropout=0.0,
            encoder=dict(name="conv_encoder", width=48, hidden=48, downs=2, blocks=2),
            optimizer=dict(name="adam", lr=2e-3, b2=0.98, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), captions=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.heads": 2, "method.net.depth": 1,
    "method.net.encoder.width": 8, "method.net.encoder.hidden": 8, "method.net.encoder.blocks": 1, "method.beam": 2,
}  # fmt: skip
