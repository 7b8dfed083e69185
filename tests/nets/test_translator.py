"""Translators: a picture of the same size whatever that is, told pictures and labels, dropout where it is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.translator import ResnetTranslator, UNetTranslator

KEY = jax.random.key(0)


def traced(net, shape):
    return jax.eval_shape(net.init_with_output, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))[0].shape


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (15, 9)])
def test_the_size_of_what_comes_out_is_that_of_what_goes_in(size):
    net = ResnetTranslator(shape=(8, 8, 2), width=2, blocks=1)
    assert traced(net, (1, *size, 3)) == (1, *size, 2)


def test_sides_that_a_unet_cannot_halve_are_refused_with_what_fits():
    net = UNetTranslator(shape=(8, 8, 1), width=2, downs=3)
    assert traced(net, (1, 16, 24, 3)) == (1, 16, 24, 1)
    with pytest.raises(UserError, match=r"downs=3 needs sides that are multiples of 8, not 12x20; set downs=2"):
        traced(net, (1, 12, 20, 3))
    assert traced(net.clone(downs=2), (1, 12, 20, 3)) == (1, 12, 20, 1)
    with pytest.raises(UserError, match="a picture of 3x3 is too small to mirror 3 pixels"):
        traced(ResnetTranslator(downs=0, blocks=1), (1, 3, 3, 3))
    with pytest.raises(UserError, match=r"downs=3 leaves nothing of 8x9 to mirror at a border; set downs=2"):
        traced(ResnetTranslator(downs=3, blocks=1), (1, 8, 9, 3))


def test_small_pictures_are_enlarged_and_nothing_told_is_refused():
    told = Spec(small=Field((4, 8, 3), "float32", "image"), mask=Field((8, 16, 1), "float32", "mask"))
    net = ResnetTranslator(shape=(8, 16, 1), width=2, blocks=1)
    for spec, size in ((told, (3, 5)), (Spec(small=told["small"]), (3, 5))):
        cond = {k: jax.ShapeDtypeStruct((2, size[0] * f.shape[0] // 4, size[1] * f.shape[0] // 4, f.shape[2]), jnp.float32)
                for k, f in spec.items()}  # fmt: skip
        out = jax.eval_shape(net.clone(conditions=spec).init_with_output, KEY, cond)[0]
        assert out.shape == (2, 6, 10, 1)
    with pytest.raises(UserError, match=r"makes pictures of pictures, and is told nothing; set config.tasks.hide=\{\}"):
        jax.eval_shape(net.init, KEY, {})


def test_pictures_and_labels_are_told_and_dropout_is_asked_for():
    told = Spec(Spec(seen=Field((16, 16, 1), "uint8", "image", "condition")), **labels(2))
    net = ResnetTranslator(shape=(16, 16, 3), width=2, downs=1, blocks=1, conditions=told, dropout=0.5)
    cond = {"label": jnp.array([0, 1]), "seen": jax.random.normal(KEY, (2, 16, 16, 1))}
    variables = jax.tree.map(lambda v: v + 0.1 * jax.random.normal(KEY, v.shape), jax.jit(net.init)(KEY, cond))
    run = jax.jit(
        lambda cond, key, dropping: net.apply(variables, cond, dropping=dropping, rngs={"dropout": key}),
        static_argnums=2,
    )
    base = run(cond, KEY, None)
    for other in (cond | {"label": jnp.array([1, 1])}, cond | {"seen": cond["seen"].at[0].multiply(-1)}):
        change = np.abs(np.asarray(run(other, KEY, None) - base)).reshape(2, -1).max(1)
        assert change[0] > 1e-3 and change[1] == 0
    noisy = [run(cond, jax.random.key(i), True) for i in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3 and (run(cond, jax.random.key(1), None) == base).all()
