"""LAPGAN (Denton et al. 2015, arXiv:1506.05751) on CIFAR-10, told the class (the paper's CC-LAPGAN), 8 -> 16 -> 32.

Level nets and SGD are those of the authors' code: rate 0.01 (divided by 1.000004 an epoch, which comes to nothing and is left
out), momentum up by 0.0008 an epoch to 0.7. People took 40 % of its pictures for real ones, 10 % of those of a plain GAN.

python -m jaxgen.main --config=configs/lapgan_cifar.py --workdir=runs/lapgan_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny

EPOCH = 50_000 / 128  # steps


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=400_000, log_every=500, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, labels=True)
    sgd = dict(name="sgd", lr=0.01, momentum=0.7, rise=round(0.7 / 0.0008 * EPOCH))
    c.method = dict(
        name="lapgan",
        levels=2,
        loss="nonsaturating",
        gen=dict(name="level_generator", width=128, optimizer=sgd),
        disc=dict(name="level_discriminator", width=128, optimizer=sgd),
        base_gen=dict(name="mlp_generator", width=1200, optimizer=sgd),
        base_disc=dict(name="mlp_discriminator", width=600, pieces=2, optimizer=sgd),
    )
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.levels": 1, **{f"method.{net}.width": 8 for net in ("gen", "disc", "base_gen", "base_disc")}}
