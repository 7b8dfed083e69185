"""A classifier of rendered scenes by all that captions say: the judge of `agree`, for runs that are told captions; minutes.

python -m jaxgen.main --config=judge_shapes --workdir=runs/judge    # add :tiny for a CPU run of seconds
python -m jaxgen.main --workdir=runs/text --mode=eval --config.eval.agree.judge=runs/judge

Pictures of another size, or of several shapes, need a judge of their own: --config.data.size=64 --config.data.max_shapes=2.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_500, log_every=100, save_every=500, steps_per_call=5))
    c.data = dict(name="shapes", size=32, num=20_000, attributes=True, labels=True, batch=64)
    c.method = dict(
        name="classifier",
        net=dict(
            name="residual_classifier", width=24, stages=3, blocks=1, coordinates=True,
            optimizer=dict(name="adam", lr=2e-3, warmup=100, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=500))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.stages": 2, "data.attributes": True}
