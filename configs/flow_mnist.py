"""Flow matching along straight paths (Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747) on MNIST.

python -m jaxgen.main --config=configs/flow_mnist.py --workdir=runs/flow_mnist

No figure is published for this set. Label-conditional with the net and guidance of configs/ddpm_mnist.py; an hour or so on
one GPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=50_000, log_every=100, save_every=2_000))
    c.data = dict(name="tfds", dataset="mnist", batch=128, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=64, mults=(1, 2, 2), blocks=2, attend=(14,), dropout=0.1, null_label=True,
            optimizer=dict(name="adam", lr=2e-4, warmup=1_000, clip=1.0),
            ema=0.9995,
        ),
        process=dict(name="linear"),
        predict="velocity",
        times="uniform",
        condition_dropout=0.1,
        solver=dict(name="euler", steps=50, space="time"),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000), grid=dict(every=2_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.groups": 8, "method.net.mults": (1,),
    "method.net.blocks": 1, "method.solver.steps": 4,
}  # fmt: skip
