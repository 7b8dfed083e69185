"""Your own folder of pictures on a laptop: 32x32, a small EDM (Karras et al. 2022), first recognisable pictures in minutes.

python -m jaxgen.main --config=pictures_small --config.data.path=~/pictures --workdir=runs/mine

From some hundred pictures on. With a folder for every class add --config.data.labels=True; where left and right matter
(letters, flags) add '--config.data.augment=()'. Larger pictures want a GPU: --config.data.size=64.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=100, save_every=500))
    c.data = dict(name="folder", path="", size=32, batch=16, augment=("flip",))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="ddpmpp", width=32, mults=(1, 2, 3), blocks=1, attend=(8,), dropout=0.0,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.998,
        ),
        process=dict(name="edm", sigma_min=0.002, sigma_max=80.0, rho=7.0),
        predict=dict(name="edm", sigma_data=0.5),
        weight=dict(name="edm", sigma_data=0.5),
        times=dict(name="log_normal", mean=-1.2, std=1.2),
        condition_dropout=0.1,
        solver=dict(name="heun", steps=18),
    )  # fmt: skip
    c.eval = dict(grid=dict(every=500, num=36))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1, 1), "method.net.attend": (), "method.solver.steps": 3}
