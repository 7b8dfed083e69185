"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958) on a folder of your own pictures at 64x64, such as emoji.

The numbers are those that StyleGAN2-ADA (arXiv:2006.06676) derives from the size and the batch. For a GPU; with a folder for
every class add --config.data.labels=True. Where left and right do not matter add "--config.data.augment=('flip',)".

python -m jaxgen.main --config=stylegan2_emoji64 --config.data.path=~/pictures --workdir=runs/mine    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=500, save_every=5_000))
    c.data = dict(name="folder", path="", size=64, batch=32)
    adam = dict(name="adam", lr=2.5e-3, b1=0.0, b2=0.99)
    width = dict(channel_base=16384, channel_max=512, clamp=256.0, half=4)
    c.method = dict(
        name="gan",
        z_dim=512,
        loss="nonsaturating",
        order="gen_first",
        fakes="data",
        disc_penalties=dict(name="r1", strength=0.0256, every=16, apart=True),
        gen_penalties=dict(name="path_length", strength=2.0, every=4, apart=True),
        gen=dict(
            name="stylegan2_generator", **width, w_dim=512, layers=2, optimizer=adam,
            ema=dict(name="half_life", images=10_000.0, rampup=0.05),
        ),
        disc=dict(name="stylegan2_discriminator", **width, group=4, optimizer=adam),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=64))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.z_dim": 8, "method.gen.w_dim": 8, "method.gen.layers": 2, "method.gen.channel_base": 64, "method.gen.channel_max": 8,
    "method.disc.channel_base": 64, "method.disc.channel_max": 8, "method.disc.layers": 1,
    "method.gen.base": 8, "method.disc.base": 8, "method.gen.half": 0, "method.disc.half": 0,
}  # fmt: skip
