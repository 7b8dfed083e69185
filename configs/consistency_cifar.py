"""Improved consistency training (Song & Dhariwal 2023, arXiv:2310.14189) on CIFAR-10. Paper: FID 2.83 in one step, 2.46 in two.

python -m jaxgen.main --config=configs/consistency_cifar.py --workdir=runs/consistency_cifar

The paper's NCSN++ net with a Fourier scale of 0.02, dropout of 0.3, rectified Adam and 400k steps of batch 1,024. For two steps
add --config.method.solver.steps=2 --config.method.solver.grid=given --config.method.solver.grid.levels="(80.0, 0.821, 0.0)".
The original training (Song et al. 2023, arXiv:2303.01469: FID 8.70 in one step, with LPIPS) is curriculum=square_root,
times=uniform, distance=l2, gap_weight=False, decay=0.9, with curriculum.low=2, high=150. Hardware of the paper: A100s.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=400_000, log_every=100, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=1024, augment=("flip",))
    c.method = dict(
        name="consistency",
        net=dict(
            name="ncsnpp", width=128, mults=(1, 2, 2, 2), blocks=4, attend=(16,), dropout=0.3, fourier_scale=0.02,
            optimizer=dict(name="radam", lr=1e-4),
            ema=0.99993,
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        times=dict(name="log_normal", mean=-1.1, std=2.0, bounded=True),
        curriculum=dict(name="doubling", low=10, high=1280),
        solver=dict(name="lcm", steps=1, scale=0.0, clip=True, grid=dict(name="karras", spare=True)),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.mults": (1,), "method.net.attend": (), "method.net.blocks": 1,
    "method.solver.steps": 2,
}  # fmt: skip
