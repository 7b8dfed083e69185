"""Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512) on 8x8 digits: a teacher of 64 steps becomes one of 1.

python -m jaxgen.main --config=configs/ddpm_digits.py --workdir=runs/v_digits --config.method.predict=v    # the teacher
python -m jaxgen.main --config=configs/progressive_digits.py --workdir=runs/progressive_digits --config.method.teacher=runs/v_digits

Six rounds halve the steps. A checkpoint is kept at the end of each: --step=1000 is the student of 16 steps
(--config.method.solver.steps=16). Published for CIFAR-10 (FID): 8 steps 2.57, 4 steps 3.00, 2 steps 4.51, 1 step 9.12.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=3_000, log_every=100, save_every=500, steps_per_call=10, keep=6))
    c.data = dict(name="digits", batch=64, labels=True)
    c.method = dict(
        name="progressive_distillation",
        teacher=dict(name="run", path=""),
        last=1,
        rounds=6,
        round_steps=500,
        net=dict(
            name="unet", width=32, mults=(1, 2), blocks=1, attend=(4,), groups=8, null_label=True,
            optimizer=dict(name="adam", lr=3e-4, clip=1.0),
            ema=0.99,
        ),
        process=dict(name="vp", schedule="cosine", steps=1000),
        predict="v",
        weight="simple",  # of v: SNR + 1, which is never zero
        condition_dropout=0.1,
        solver=dict(name="ddim", steps=1),
        guide=dict(name="cfg", scale=1.5),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=500), grid=dict(every=500, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 16, "method.net.mults": (1,), "method.rounds": 2, "method.round_steps": 2}
