"""StyleGAN2-ADA's nets (Karras et al. 2020, arXiv:2006.06676) on CIFAR-10, told the class. Paper: FID 2.42 (ADA).

100 million images; no path length, no style mixing, a discriminator without residuals, 512 channels throughout.

python -m jaxgen.main --config=configs/stylegan2_cifar_conditional.py --workdir=runs/stylegan2_cifar_conditional
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=1_562_500, log_every=500, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=64, labels=True)
    adam = dict(name="adam", lr=2.5e-3, b1=0.0, b2=0.99)
    width = dict(channel_base=32768, channel_max=512, clamp=256.0, half=4)
    c.method = dict(
        name="gan",
        z_dim=512,
        loss="nonsaturating",
        order="gen_first",
        fakes="data",
        augment="ada",
        disc_penalties=dict(name="r1", strength=0.01, every=16, apart=True),
        gen=dict(
            name="stylegan2_generator", **width, w_dim=512, layers=2, mixing=0.0, optimizer=adam,
            ema=dict(name="half_life", images=500_000.0, rampup=0.05),
        ),
        disc=dict(name="stylegan2_discriminator", **width, group=32, architecture="orig", optimizer=adam),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=10_000), grid=dict(every=10_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.z_dim": 8, "method.gen.w_dim": 8, "method.gen.layers": 1, "method.gen.channel_base": 64, "method.gen.channel_max": 8,
    "method.disc.channel_base": 64, "method.disc.channel_max": 8, "method.disc.layers": 1,
    "method.gen.base": 8, "method.disc.base": 8, "method.gen.half": 0, "method.disc.half": 0,
}  # fmt: skip
