"""Label-conditional DDPM (Ho et al. 2020, arXiv:2006.11239) on 8x8 scanned digits: a full run in minutes on a laptop CPU.

python -m jaxgen.main --config=configs/ddpm_digits.py --workdir=runs/ddpm_digits

The set is in the package (1,797 images), so nothing is downloaded. Figures of a run: experiments/ddpm_digits.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, dropout=0.1, null_label=True,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="eps",
        condition_dropout=0.1,
        solver=dict(name="ddim", steps=50, eta=1.0),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 4}
