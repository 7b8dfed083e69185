"""A small BigGAN (Brock et al. 2018, arXiv:1809.11096) on the built-in 8x8 digits.

One table of labels for all norms, a part of z for each block, attention at 4x4, spectral norm in both, kernels at right angles.

python -m jaxgen.main --config=configs/biggan_digits.py --workdir=runs/biggan_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=10_000, log_every=200, save_every=2_000, steps_per_call=10))
    c.data = dict(name="digits", batch=64, labels=True)
    adam = dict(name="adam", b1=0.0, b2=0.9)
    c.method = dict(
        name="gan",
        z_dim=33,
        loss="hinge",
        fakes="uniform",
        gen_penalties=dict(name="orthogonal", strength=1e-4),
        gen=dict(
            name="resnet_generator",
            width=32,
            base=2,
            spectral=True,
            attend=(4,),
            shared=16,
            hierarchical=True,
            kernels="orthogonal",
            optimizer=dict(adam, lr=2e-4),
            ema=0.999,
        ),
        disc=dict(
            name="resnet_discriminator",
            width=32,
            downs=1,
            plain=3,  # each block may double D's slope: with one, D cannot tell 64 pixels apart by the hinge's margin
            spectral=True,
            attend=(4,),
            pool="sum",
            kernels="orthogonal",
            optimizer=dict(adam, lr=4e-4),
        ),
    )
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000))
    return tiny(c, **{"method.gen.width": 8, "method.disc.width": 8, "method.disc.plain": 0}) if arg == "tiny" else c
