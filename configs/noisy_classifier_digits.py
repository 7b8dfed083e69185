"""A classifier of noisy 8x8 digits (Dhariwal & Nichol 2021, arXiv:2105.05233): the judge of classifier guidance; a few minutes.

python -m jaxgen.main --config=configs/noisy_classifier_digits.py --workdir=runs/noisy_classifier_digits
python -m jaxgen.main --workdir=runs/ddpm_digits --mode=eval --config.method.guide=classifier --config.method.guide.judge=DIR

with the first one's directory for DIR. Its process must be that of the run it guides (configs/ddpm_digits.py).
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=200, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="noisy_classifier",
        net=dict(
            name="timed_classifier", width=32, stages=2, blocks=1, dropout=0.2,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000))
    return tiny(c, **{"method.net.width": 8}) if arg == "tiny" else c
