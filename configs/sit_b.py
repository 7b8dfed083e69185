"""SiT-B/2 (Ma et al. 2024, arXiv:2401.08740) on the pixels of CIFAR-10: the net of DiT, the linear interpolant, its velocity.

python -m jaxgen.main --config=configs/sit_b.py --workdir=runs/sit_b

The paper trains on ImageNet-256 latents; its SiT-XL/2 reaches FID 2.06 with guidance 1.5 by the SDE. Optimizer, EMA, label
dropout and the 250 Euler-Maruyama steps with w = sigma are the paper's; --config.method.solver=heun
--config.method.solver.space=time follows the ODE instead. On a GPU add --config.method.net.dtype=bfloat16.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=400_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=256, labels=True, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="dit", patch=2, depth=12, width=768, heads=12, null_label=True,
            optimizer=dict(name="adam", lr=1e-4),
            ema=0.9999,
        ),
        process=dict(name="linear", scale=1.0),  # the net sees t in [0, 1]
        predict="velocity",
        times="uniform",
        condition_dropout=0.1,
        solver=dict(name="euler_maruyama", steps=250, diffusion="sigma"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=10_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 32, "method.net.depth": 2, "method.net.heads": 2, "method.solver.steps": 4,
}  # fmt: skip
