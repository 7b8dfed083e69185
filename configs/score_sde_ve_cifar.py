"""NCSN++ cont. with the VE SDE (Song et al. 2021, arXiv:2011.13456) on CIFAR-10. Paper: FID 2.38, IS 9.83.

python -m jaxgen.main --config=configs/score_sde_ve_cifar.py --workdir=runs/score_sde_ve_cifar

A reverse-diffusion step and a Langevin step at each of 1,000 levels. The deep form, --config.method.net.blocks=8, is published
with FID 2.20, IS 9.89. The paper's images lie in [0, 1] and its sigmas
in [0.01, 50]; ours in [-1, 1], so both ends are doubled.
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
            name="ncsnpp", width=128, mults=(1, 2, 2, 2), blocks=4, attend=(16,), dropout=0.1,
            optimizer=dict(name="adam", lr=2e-4, warmup=5_000, clip=1.0),
            ema=0.999,
        ),
        process=dict(name="ve", sigma_min=0.02, sigma_max=100.0),
        predict=dict(name="score", power=1.0),  # the net's output is divided by sigma
        solver=dict(name="predictor_corrector", steps=1000, corrections=1, snr=0.16),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=20_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {  # no corrector: its step is divided by the score, which is next to nothing after four steps of training
    "method.net.width": 16, "method.net.attend": (), "method.net.mults": (1, 2), "method.net.blocks": 1,
    "method.solver.steps": 3, "method.solver.corrections": 0,
}  # fmt: skip
