"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958) on the built-in 8x8 digits, told the digit: minutes on two cores.

python -m jaxgen.main --config=configs/stylegan2_digits.py --workdir=runs/stylegan2_digits    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6_000, log_every=200, save_every=2_000, steps_per_call=16))
    c.data = dict(name="digits", batch=64, labels=True)
    adam = dict(name="adam", lr=2.5e-3, b1=0.0, b2=0.99)
    width = dict(channel_base=512, channel_max=64, clamp=256.0)
    c.method = dict(
        name="gan",
        z_dim=64,
        loss="nonsaturating",
        order="gen_first",
        fakes="data",
        disc_penalties=dict(name="r1", strength=1.0),  # lazily, G draws one picture of each digit here
        gen_penalties=dict(name="path_length", strength=2.0, every=4, apart=True),
        gen=dict(
            name="stylegan2_generator", **width, w_dim=64, layers=2, optimizer=adam,
            ema=dict(name="half_life", images=20_000.0, rampup=0.05),
        ),
        disc=dict(name="stylegan2_discriminator", **width, group=4, layers=2, optimizer=adam),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000), grid=dict(every=1_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.z_dim": 8, "method.gen.w_dim": 8, "method.gen.layers": 2, "method.gen.channel_base": 64, "method.gen.channel_max": 8,
    "method.disc.channel_base": 64, "method.disc.channel_max": 8, "method.disc.layers": 1,
}  # fmt: skip
