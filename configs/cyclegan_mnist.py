"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593) between digits and negatives of other digits (MNIST, unpaired halves).

python -m jaxgen.main --config=cyclegan_mnist --workdir=runs/cyclegan_mnist    # 1,600 steps do: four processor minutes
python -m jaxgen.main --workdir=runs/cyclegan_mnist --mode=sample --num=16     # a digit, its negative, some other one, in turn
python -m jaxgen.main --workdir=runs/cyclegan_mnist --mode=sample --num=16 --config.tasks.reverse={}     # the other way

A trial in which right and wrong are seen at once: the digit must stay what it is. Light and dark are to be exchanged here, so that
nothing is to stay as it is (identity=0), and the rule that warns of it is left out.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import WATCH, tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=6_000, log_every=100, save_every=2_000))
    c.watch = tuple(rule for rule in WATCH if rule != "inverts")
    mnist = dict(name="tfds", dataset="mnist")
    a = {**mnist, "split": "train[:50%]", "eval_split": "test[:50%]"}
    b = {**mnist, "split": "train[50%:]", "eval_split": "test[50%:]"}
    c.data = dict(name="unpaired", source_a=a, source_b=dict(name="negative", source=b), batch=4)
    adam = dict(name="adam", lr=2e-4, b1=0.5, schedule="half_linear")
    c.method = dict(
        name="cyclegan",
        cycle=10.0,
        identity=0.0,
        pool=50,
        gen=dict(name="resnet_translator", width=16, blocks=3, norm="instance", optimizer=adam),
        disc=dict(name="patchgan", width=32, layers=2, norm="instance", optimizer=adam),
    )
    c.eval = dict(loss=dict(every=2_000, num=512), grid=dict(every=2_000, num=16), reconstruct=dict(num=512, shown=16))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {
    "data": dict(
        name="unpaired", source_a=dict(name="digits"), source_b=dict(name="negative", source=dict(name="digits")), batch=8
    ),
    "method.gen.width": 4, "method.gen.blocks": 1, "method.disc.width": 4, "method.disc.layers": 1,
}  # fmt: skip
