"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958) on MNIST, told the digit: from a grid of 7x7 to 28x28.

Averages of 10/32 thousand images for each image of the batch, as StyleGAN2-ADA (arXiv:2006.06676) has them. R1 is a thousand
times what it derives from size and batch (0.0002 size^2 / batch): under that D wins early, and G draws one picture of each
digit. The width is that of two cores; wider: channel_base=16384.

python -m jaxgen.main --config=configs/stylegan2_mnist.py --workdir=runs/stylegan2_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=100_000, log_every=500, save_every=10_000))
    c.data = dict(name="tfds", dataset="mnist", batch=32, labels=True)
    adam = dict(name="adam", lr=2.5e-3, b1=0.0, b2=0.99)
    width = dict(channel_base=896, channel_max=128, clamp=256.0)
    c.method = dict(
        name="gan",
        z_dim=128,
        loss="nonsaturating",
        order="gen_first",
        fakes="data",
        disc_penalties=dict(name="r1", strength=5.0, every=16, apart=True),
        gen_penalties=dict(name="path_length", strength=2.0, every=4, apart=True),
        gen=dict(
            name="stylegan2_generator", **width, w_dim=128, layers=2, optimizer=adam,
            ema=dict(name="half_life", images=10_000.0, rampup=0.05),
        ),
        disc=dict(name="stylegan2_discriminator", **width, group=4, optimizer=adam),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=100))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "method.z_dim": 8, "method.gen.w_dim": 8, "method.gen.layers": 1, "method.gen.channel_base": 64, "method.gen.channel_max": 8,
    "method.disc.channel_base": 64, "method.disc.channel_max": 8, "method.disc.layers": 1,
}  # fmt: skip
