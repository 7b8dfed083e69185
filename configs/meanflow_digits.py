"""MeanFlow (Geng et al. 2025, arXiv:2505.13447) on 8x8 scanned digits, label-conditional: one-step samples.

python -m jaxgen.main --config=configs/meanflow_digits.py --workdir=runs/meanflow_digits

The net of configs/flow_digits.py told two times; minutes on a laptop CPU. For two or four steps add
--config.method.sample_steps=2.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=1_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="meanflow",
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, dropout=0.1, null_label=True,
            optimizer=dict(name="adam", lr=1e-3, warmup=200, schedule="cosine"),
            ema=0.999,
        ),
        process=dict(name="linear", scale=1.0),  # times stay in [0, 1]: the net is differentiated by them
        times=dict(name="logit_normal", mean=-0.4, std=1.0),
        share=0.25,
        power=1.0,
        condition_dropout=0.1,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.sample_steps": 2}
