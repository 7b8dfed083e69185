"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593) between two folders of pictures that are not paired, such as apples and tomatoes.

python -m jaxgen.main --config=cyclegan_fruits --config.data.source_a.path=~/apples --config.data.source_b.path=~/tomatoes \
    --workdir=runs/fruits
python -m jaxgen.main --workdir=runs/fruits --mode=sample --num=16     # an apple, a tomato of it, some other tomato, in turn
python -m jaxgen.main --workdir=runs/fruits --mode=sample --num=16 --config.tasks.reverse={}     # the other way

The paper's recipe with the six blocks that it takes up to 128x128; for a GPU. 32x32 on a CPU: --config.data.source_a.size=32
--config.data.source_b.size=32 --config.data.batch=4 --config.method.gen.width=16 --config.method.gen.blocks=3
--config.method.disc.width=32 --config.method.disc.layers=2
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=56_000, log_every=200, save_every=5_000))
    a, b = (dict(name="folder", path="", size=96) for _ in range(2))
    c.data = dict(name="unpaired", source_a=a, source_b=b, batch=1, augment=("flip", dict(name="crop", pad=6)))
    adam = dict(name="adam", lr=2e-4, b1=0.5, schedule="half_linear")
    c.method = dict(
        name="cyclegan",
        cycle=10.0,
        identity=0.5,
        pool=50,
        gen=dict(name="resnet_translator", width=64, blocks=6, norm="instance", optimizer=adam),
        disc=dict(name="patchgan", width=64, layers=3, norm="instance", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=5_000), grid=dict(every=5_000, num=16), reconstruct=dict(every=5_000, shown=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "data": dict(
        name="unpaired", source_a=dict(name="digits"), source_b=dict(name="negative", source=dict(name="digits")), batch=8
    ),
    "method.gen.width": 4, "method.gen.blocks": 1, "method.disc.width": 4, "method.disc.layers": 1,
}  # fmt: skip
