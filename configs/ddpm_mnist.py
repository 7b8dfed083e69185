"""DDPM (Ho et al. 2020, arXiv:2006.11239) on MNIST, label-conditional with classifier-free guidance (Ho & Salimans 2022).

python -m jaxgen.main --config=configs/ddpm_mnist.py --workdir=runs/ddpm_mnist

No figure is published for this set. The cosine schedule (Nichol & Dhariwal 2021) suits small pictures better than the
linear one, which destroys them in the first third of its steps. DDIM samples in 50 steps.
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
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="eps",
        condition_dropout=0.1,
        solver=dict(name="ddim", steps=50),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=2_000), grid=dict(every=2_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.net.width": 16, "method.net.groups": 8, "method.net.attend": (), "method.net.mults": (1, 2),
    "method.net.blocks": 1, "method.solver.steps": 4,
}  # fmt: skip
