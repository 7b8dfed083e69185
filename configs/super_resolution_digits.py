"""Super-resolution by a diffusion model that is told the small picture (SR3: Saharia et al. 2021, arXiv:2104.07636).

python -m jaxgen.main --config=configs/super_resolution_digits.py --workdir=runs/super_resolution_digits
python -m jaxgen.main --workdir=runs/super_resolution_digits --mode=sample --num=16     # small, enlarged, original, in turn

On the built-in digits, 4x4 -> 8x8. The small picture is enlarged by cubic interpolation and put beside the noisy one, as in
the paper. Minutes on a laptop CPU.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    c.tasks = dict(shrink=dict(factor=2))
    c.method = dict(
        name="diffusion",
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, dropout=0.1,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, clip=1.0, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="eps",
        solver=dict(name="ddim", steps=50, eta=1.0),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=32), from_conditions=dict(num=297))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.solver.steps": 4}
