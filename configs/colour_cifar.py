"""Colour for grey pictures of CIFAR-10, by regression: the mean of the colours that there may be. The luma given comes out exact.

python -m jaxgen.main --config=colour_cifar --workdir=runs/colour_cifar    # add :tiny for a CPU run of seconds

Among several colours regression takes the one between: brown. A judge of how pictures look, a classifier of the same data trained
first, counts against it: '--config.method.perceptual={"name": "native", "path": "runs/classifier_cifar"}'.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=40_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, augment=("flip",))
    c.tasks = dict(degrade=dict(degradation="grey"))
    c.method = dict(
        name="regress",
        net=dict(
            name="srresnet", scale=1, blocks=16, width=64,
            optimizer=dict(name="adam", lr=2e-4, schedule="cosine"),
            ema=0.999,
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=32), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.name": "rrdb",
    "method.net.scale": 1,
    "method.net.blocks": 1,
    "method.net.width": 8,
    "method.net.grow": 4,
}
TINY |= {"method.ensemble": True}
