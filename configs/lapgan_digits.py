"""LAPGAN (Denton et al. 2015, arXiv:1506.05751) on the built-in 8x8 digits, told the digit, 4 -> 8: minutes on two cores.

python -m jaxgen.main --config=configs/lapgan_digits.py --workdir=runs/lapgan_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    adam = dict(name="adam", lr=2e-4, b1=0.5)
    c.method = dict(
        name="lapgan",
        levels=1,
        z_dim=32,
        loss="nonsaturating",
        gen=dict(name="level_generator", width=32, optimizer=adam, ema=0.999),
        disc=dict(name="level_discriminator", width=32, optimizer=adam),
        base_gen=dict(name="mlp_generator", width=256, optimizer=adam, ema=0.999),
        base_disc=dict(name="mlp_discriminator", width=128, pieces=2, optimizer=adam),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {f"method.{net}.width": 8 for net in ("gen", "disc", "base_gen", "base_disc")}
