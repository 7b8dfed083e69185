"""PatchGAN: one logit for a patch, each of its own pixels alone; labels and pictures reach it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.patchgan import PatchGan

KEY = jax.random.key(0)


@pytest.mark.parametrize("shape", [(40, 48, 1), (24, 33, 3), (29, 24, 4)])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_images_of_any_shape(shape, layers):
    shapes = jax.eval_shape(PatchGan(width=4, layers=layers).init_with_output, KEY, jnp.zeros((2, *shape)))[0]
    assert (
        shapes.shape == (2, *(n // 2**layers - (2 if layers else 0) for n in shape[:2])) and shapes.dtype == jnp.float32
    )


@pytest.mark.parametrize("layers, patch", [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_a_logit_is_of_a_patch(layers, patch):
    """One logit's gradient reaches a square of so many pixels of its own example."""
    net = PatchGan(width=2, layers=layers, norm="none")
    x = jax.random.normal(KEY, (2, 160, 160, 1))
    variables = net.init(KEY, x)
    slope = jax.jit(jax.grad(lambda x: net.apply(variables, x)[0, 9, 9]))(x)
    reach = (np.abs(np.asarray(slope)).max(-1) > 0)[0]
    assert (
        min(patch, 9 * 2**layers) <= reach.any(0).sum() == reach.any(1).sum() <= patch
        and not np.asarray(slope)[1].any()
    )


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
def test_norms_and_conditions(norm):
    told = Spec(Spec(sketch=Field((12, 16, 1), "uint8", "image", "condition")), **labels(3))
    net = PatchGan(conditions=told, width=4, layers=1, norm=norm, spectral=True)
    x, sketch = jax.random.normal(KEY, (2, 24, 32, 3)), jax.random.normal(KEY, (2, 12, 16, 1))
    cond = {"label": jnp.array([0, 1]), "sketch": sketch}
    variables = net.init(KEY, x, cond)
    run = jax.jit(lambda cond: net.apply(variables, x, cond))
    base = run(cond)
    for other in (cond | {"label": jnp.array([2, 1])}, cond | {"sketch": sketch.at[0].set(0)}):
        change = np.abs(np.asarray(run(other) - base)).reshape(2, -1).max(1)
        assert change[0] > 1e-5 and change[1] == 0
    kept = set(variables)
    assert kept == {"params", "spectral"} | ({"batch_stats"} if norm == "batch" else set())


def test_too_small_an_image_names_the_layers_that_fit():
    with pytest.raises(UserError, match=r"layers=3 needs images of at least 24x24, not 16x20; set layers=2"):
        PatchGan().init(KEY, jnp.zeros((1, 16, 20, 1)))
    assert PatchGan(width=2, layers=2).init_with_output(KEY, jnp.zeros((1, 16, 20, 1)))[0].shape == (1, 2, 3)
    with pytest.raises(UserError, match="norm='group' is unknown; there are: batch, layer, instance, none"):
        PatchGan(norm="group").init(KEY, jnp.zeros((1, 32, 32, 1)))
