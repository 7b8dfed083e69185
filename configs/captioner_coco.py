"""Show, attend and tell (Xu et al. 2015, arXiv:1502.03044) on captioned photographs of your own, such as COCO: an LSTM says.

python -m jaxgen.main --config=captioner_coco --config.data.path=~/coco --workdir=runs/captioner    # add :tiny for a run of seconds

In the folder is a captions.jsonl, or a text file beside every picture; of several captions one is drawn each time. The paper's
encoder is a VGG net of ImageNet; this one is trained along, so that it wants many pictures.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=100, save_every=5_000))
    c.data = dict(
        name="folder", path="", size=112, batch=64, augment=("flip",),
        tokenizer=dict(name="bytes", vocab=4_096, length=32),
    )  # fmt: skip
    c.tasks = dict(describe=dict())
    c.method = dict(
        name="captioner",
        net=dict(
            name="lstm_captioner", width=512, dropout=0.5,
            encoder=dict(name="conv_encoder", width=256, hidden=256, downs=3, blocks=4),
            optimizer=dict(name="adam", lr=4e-4, warmup=1_000, clip=1.0, schedule="cosine"),
            ema=0.9999,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), captions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 8, "method.net.encoder.width": 8, "method.net.encoder.hidden": 8,
    "method.net.encoder.blocks": 1, "method.beam": 2, "data.tokenizer.vocab": 384, "data.tokenizer.length": 24,
}  # fmt: skip
