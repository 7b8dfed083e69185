"""Reflow (Liu et al. 2023, arXiv:2209.03003): a flow on 8x8 digits straightened, so that few Euler steps will do.

python -m jaxgen.main --config=configs/flow_digits.py --workdir=runs/flow_digits                           # the teacher
python -m jaxgen.main --config=configs/reflow_digits.py --workdir=runs/reflow_digits --config.method.teacher=runs/flow_digits

The teacher makes its pairs with its own guidance, so the student needs none. Published for CIFAR-10 (FID, one step): the
flow 378, reflowed once 12.21.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=2_000, log_every=100, save_every=500, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="reflow",
        teacher=dict(name="run", path=""),
        pairs=dict(name="euler", steps=20, space="time"),
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, null_label=True,
            optimizer=dict(name="adam", lr=5e-4, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="linear"),
        predict="velocity",
        solver=dict(name="euler", steps=2, space="time"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=500), grid=dict(every=500, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.pairs.steps": 2, "method.probes": 2}
