"""Rectified flow, flow matching along straight paths (Liu et al. 2023, arXiv:2209.03003), on CIFAR-10. Paper: 1-RF FID 2.58.

python -m jaxgen.main --config=configs/flow_cifar.py --workdir=runs/flow_cifar

The published program's DDPM++ net, optimizer and EMA. Its adaptive RK45 takes 127 evaluations, as do 64 Heun steps here.
Conditional flow matching with its optimal-transport path (Lipman et al. 2023, arXiv:2210.02747: FID 6.35) is the same
objective with an ADM net. The run sees 166 million images: days on several GPUs.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_300_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=128, mults=(1, 2, 2, 2), blocks=4, attend=(16,), dropout=0.15,
            optimizer=dict(name="adam", lr=2e-4, warmup=5_000, clip=1.0),
            ema=0.999999,
        ),
        process=dict(name="linear"),
        predict="velocity",
        times="uniform",
        solver=dict(name="heun", steps=64, space="time"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=10_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (), "method.net.blocks": 1,
    "method.solver.steps": 3,
}  # fmt: skip
