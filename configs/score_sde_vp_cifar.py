"""DDPM++ cont. with the VP SDE (Song et al. 2021, arXiv:2011.13456) on CIFAR-10. Paper: FID 2.55, IS 9.58.

python -m jaxgen.main --config=configs/score_sde_vp_cifar.py --workdir=runs/score_sde_vp_cifar

Sampled by 1,000 Euler-Maruyama steps. --config.method.net.blocks=8 is the deep form (FID 2.41),
--config.method.process=sub_vp the sub-VP SDE (FID 2.61).
The run sees 166 million images (the paper's best checkpoints come earlier): days on several GPUs.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_300_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=128, mults=(1, 2, 2, 2), blocks=4, attend=(16,), dropout=0.1,
            optimizer=dict(name="adam", lr=2e-4, warmup=5_000, clip=1.0),
            ema=0.9999,
        ),
        process=dict(name="vp_sde", beta_min=0.1, beta_max=20.0),
        predict="eps",
        solver=dict(name="euler_maruyama", steps=1000, diffusion="sbdm"),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=20_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (), "method.net.blocks": 1,
    "method.solver.steps": 3,
}  # fmt: skip
