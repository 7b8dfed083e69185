"""Real-ESRNet (Wang et al. 2021, arXiv:2107.10833, section 4.1): photographs four times as large, spoilt as those of the world are.

python -m jaxgen.main --config=realesrnet_x4 --config.data.path=~/photos --workdir=runs/realesrnet    # add :tiny for seconds

Twice blur, resize, noise and JPEG, then rings: all drawn in the step (the degradation second_order). The recipe, 1,000,000 steps,
is for GPUs; Real-ESRGAN begins from it. To go on from published weights: python -m jaxgen.pretrained convert RealESRNet_x4plus.pth
runs/begin --to=run, then --config.init=runs/begin.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_000_000, log_every=100, save_every=5_000))
    c.data = dict(name="crops", path="", size=256, stride=128, channels=3, batch=48, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=dict(name="second_order", factor=4)))
    c.method = dict(
        name="regress",
        net=dict(
            name="rrdb", scale=4, blocks=23, width=64, grow=32,
            optimizer=dict(name="adam", lr=2e-4, b2=0.99),
            ema=0.999,
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=512), grid=dict(every=5_000, num=16), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.blocks": 1, "method.net.width": 8, "method.net.grow": 4}
