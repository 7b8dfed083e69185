"""What every net of diffusion does with what it is told: laws over nets and kinds of conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.conditions import nulls
from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import TAKES
from jaxgen.nets.dit import DiT
from jaxgen.nets.edm2_unet import Edm2UNet
from jaxgen.nets.edm_unet import Adm, DdpmPP, NcsnPP
from jaxgen.nets.unet import UNet

SMALL = dict(shape=(8, 8, 3), width=8, mults=(1,), blocks=1, attend=())
NETS = {
    "unet": UNet(**SMALL, groups=4, attend_mid=False, dropout=0.0, null_label=True),
    "dit": DiT(shape=(8, 8, 3), depth=1, width=16, heads=2),
    "ddpmpp": DdpmPP(**SMALL, dropout=0.0),
    "ncsnpp": NcsnPP(**SMALL | dict(mults=(1, 1)), dropout=0.0),
    "adm": Adm(**SMALL, head_dim=0, dropout=0.0),
    "edm2": Edm2UNet(**SMALL, head_dim=8),
}
TOLD = Spec(
    digit=Field((), "int32", "label", values=3),
    size=Field((), "int32", "label", values=2),
    caption=Field((5,), "float32", "embedding"),
    style=Field((2,), "float32", "embedding"),
    low=Field((4, 4, 2), "float32", "image"),
    code=Field((8, 8, 1), "float32", "latent"),
    hidden=Field((8, 8, 1), "float32", "mask"),
)
X, T = jax.random.normal(jax.random.key(1), (3, 8, 8, 3)), jnp.array([0.3, 0.7, 0.5])


def drawn(spec, seed=0):
    """Every condition of three examples."""
    rng = np.random.default_rng(seed)
    draw = {
        "label": lambda f: rng.integers(0, f.values, (3, *f.shape)),
        "mask": lambda f: rng.integers(0, 2, (3, *f.shape)),
    }
    plain = lambda f: rng.standard_normal((3, *f.shape))  # noqa: E731
    return {k: jnp.asarray(draw.get(f.kind, plain)(f), f.dtype) for k, f in spec.items()}


def variables_of(module, cond=None, x=X):
    """Variables away from the zeros that nets start with."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, T, cond)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.standard_normal(a.shape), a.dtype), shapes)


@pytest.fixture(scope="module", params=NETS)
def told(request):
    """(module, its variables, compiled apply, a value of every condition)."""
    module = NETS[request.param].clone(conditions=TOLD)
    cond = drawn(TOLD)
    return module, variables_of(module, cond), jax.jit(module.apply), cond


def test_every_condition_reaches_its_own_example_and_no_other(told):
    _, variables, apply, cond = told
    base = apply(variables, X, T, cond)
    scale = float(jnp.abs(base).max())
    for name, field in TOLD.items():
        other = (cond[name][1] + 1) % field.values if field.kind == "label" else 1 - cond[name][1]
        got = apply(variables, X, T, cond | {name: cond[name].at[1].set(other)})
        changed = np.abs(np.asarray(got - base)).reshape(3, -1).max(1) / scale
        assert changed[1] > 1e-3 and changed[[0, 2]].max() < 1e-5, (name, changed)


def test_what_is_not_said_is_null(told):
    """To the bit, one operation at a time: programs that are compiled apart do not promise as much."""
    module, variables, _, cond = told
    part, null = {"size": cond["size"], "low": cond["low"]}, nulls(TOLD, 3)
    for given, whole in (({}, null), (None, null), (part, null | part)):
        np.testing.assert_array_equal(module.apply(variables, X, T, given), module.apply(variables, X, T, whole))
    assert module.takes == TAKES and {f.kind for f in TOLD.values()} == set(TAKES)


def test_parameters_carry_the_names_of_labels_and_embeddings_whatever_their_order(told):
    module, variables, apply, cond = told
    names = {key.key for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"]) for key in path}
    assert {"digit", "size", "caption", "style"} < names and not {"low", "code", "hidden"} & names
    turned = module.clone(conditions=Spec(reversed(list(TOLD.items()))))
    shapes = jax.eval_shape(turned.init, jax.random.key(0), X, T, cond)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_array_equal(jax.jit(turned.apply)(variables, X, T, cond), apply(variables, X, T, cond))


@pytest.mark.parametrize("name", NETS)
def test_a_picture_is_further_channels_and_is_resized_to_the_image(name):
    plain, spec = NETS[name], Spec(low=TOLD["low"], hidden=TOLD["hidden"])
    cond = drawn(spec)
    module = plain.clone(conditions=spec)
    resized = jax.image.resize(cond["low"], (3, 8, 8, 2), "cubic")
    wide = jnp.concatenate([X, cond["hidden"], resized], -1)  # by name
    variables = variables_of(plain, x=wide)
    want = jax.jit(plain.apply)(variables, wide, T)
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(apply(variables, X, T, cond), want, atol=1e-5 * float(jnp.abs(want).max()))
    np.testing.assert_allclose(
        apply(variables, X, T, cond | {"low": resized}), want, atol=1e-5 * float(jnp.abs(want).max())
    )
    assert want.shape == X.shape


@pytest.mark.parametrize("name", NETS)
def test_other_ranks_are_named(name):
    module = NETS[name]
    kind = type(module).__name__

    def init(x, **cond):
        spec = Spec({k: Field(a.shape[1:], "float32", kind) for k, (kind, a) in cond.items()})
        told = {k: a for k, (_, a) in cond.items()}
        return jax.eval_shape(module.clone(conditions=spec).init, jax.random.key(0), x, T, told)

    with pytest.raises(
        UserError, match=rf"{kind} needs images of shape \[H, W, C\], not \[2, 8, 8, 3\]; choose another net"
    ):
        init(jnp.zeros((3, 2, 8, 8, 3)))
    with pytest.raises(UserError, match=r"needs the condition 'hidden' of shape \[H, W, C\], not \[8, 8\]"):
        init(X, hidden=("mask", jnp.zeros((3, 8, 8))))
    with pytest.raises(UserError, match=r"one vector for each example, and 'caption' has shape \[7, 5, 2\]"):
        init(X, caption=("embedding", jnp.zeros((3, 7, 5, 2))))
