"""RealNVP (Dinh et al. 2016, arXiv:1605.08803) on the built-in 8x8 digits.

Its density is exact; the bits per dimension of the 17 grey levels are a bound by uniform noise, tightened by 16 draws of it.

python -m jaxgen.main --config=configs/realnvp_digits.py --workdir=runs/realnvp_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_000, log_every=100, save_every=500, steps_per_call=10))
    c.data = dict(name="digits", batch=64)
    c.method = dict(
        name="flow",
        net=dict(
            name="realnvp",
            scales=2,
            width=32,
            blocks=2,
            unroll=4,
            optimizer=dict(
                name="adam", lr=1e-3, schedule="cosine", weight_decay=5e-5, decay=".*Conv.*/scale", clip=100.0
            ),
            ema=0.999,
        ),
        dequantise=dict(name="importance", draws=16),
    )
    c.eval = dict(loss=dict(every=250), likelihood=dict(every=0), grid=dict(every=500))
    small = {"method.net.width": 8, "method.net.blocks": 0, "method.net.unroll": 1, "method.dequantise.draws": 2}
    return tiny(c, **small) if arg == "tiny" else c
