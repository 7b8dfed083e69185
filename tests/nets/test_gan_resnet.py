"""The residual pair of GANs: attention by its definition, labels and latents where the papers put them, images of any shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import close, normal

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.gan import Judged
from jaxgen.nets.gan_resnet import Attention, ResnetDiscriminator, ResnetGenerator

pytestmark = pytest.mark.usefixtures("highest_precision")
KEY = jax.random.key(0)
PAPERS = {  # (fields of G, of D)
    "sngan": ({}, dict(spectral=True, pool="sum")),
    "sagan": (dict(spectral=True, attend=(12,)), dict(spectral=True, attend=(12,), pool="sum")),
    "biggan": (
        dict(spectral=True, attend=(12,), shared=5, hierarchical=True, kernels="orthogonal"),
        dict(spectral=True, attend=(6, 12), pool="sum", kernels="normal"),
    ),
    "acgan": ({}, dict(labels="classes", norm="layer")),
}


def nets(paper, shape, classes=3):
    told = dict(conditions=labels(classes), width=8)
    of_gen, of_disc = PAPERS[paper]
    return ResnetGenerator(shape=shape, **told, **of_gen), ResnetDiscriminator(downs=2, plain=1, **told, **of_disc)


def logit(said):
    return said.logit if isinstance(said, Judged) else said


def moved(variables):
    """The variables with params away from where they start: gammas and tables of norms start at 0."""
    rng = np.random.default_rng(0)
    move = lambda a: a + 0.3 * rng.standard_normal(a.shape).astype(np.float32)  # noqa: E731
    return {**variables, "params": jax.tree.map(move, variables["params"])}


@pytest.mark.parametrize("shape", [(4, 6, 16), (5, 7, 8), (2, 2, 4)])
def test_attention_by_its_definition(shape):
    h, w, c = shape
    x = normal(0, 2, *shape)
    module = Attention()
    variables = module.init(KEY, x)
    np.testing.assert_array_equal(module.apply(variables, x), x)  # gamma starts at 0
    few, some = max(c // 8, 1), max(c // 2, 1)
    params = {**variables["params"], "gamma": jnp.float32(0.7)}

    def want(params, x):
        q, k, v = (x @ params[name]["kernel"][0, 0] for name in ("query", "key", "value"))
        tops = [
            [a[:, i : i + 2, j : j + 2].max((1, 2)) for i in range(0, h - 1, 2) for j in range(0, w - 1, 2)]
            for a in (k, v)
        ]
        k, v = (jnp.stack(top, 1) for top in tops)
        assert q.shape[-1] == k.shape[-1] == few and v.shape[-1] == some
        shares = jax.nn.softmax(jnp.einsum("bhwc,bmc->bhwm", q, k), -1)
        return x + params["gamma"] * jnp.einsum("bhwm,bmc->bhwc", shares, v) @ params["out"]["kernel"][0, 0]

    def got(params, x):
        return module.apply({"params": params}, x)

    found = [
        jax.jit(jax.value_and_grad(lambda p, x, f=f: jnp.sin(f(p, x)).sum(), (0, 1)))(params, x) for f in (got, want)
    ]
    close(*found, 5e-5)
    close(*(jax.jit(f)(params, x) for f in (got, want)))


@pytest.mark.parametrize("shape", [(24, 24, 1), (24, 36, 3), (24, 16, 4)])
@pytest.mark.parametrize("paper", PAPERS)
def test_images_of_any_shape(paper, shape):
    for classes in (0, 3) if paper != "acgan" else (3,):
        gen, disc = nets(paper, shape, classes)
        cond = {"label": jnp.zeros(2, jnp.int32)} if classes else {}
        x, v = jax.eval_shape(gen.init_with_output, KEY, jnp.zeros((2, 7)), cond)
        assert x.shape == (2, *shape) and x.dtype == jnp.float32
        said, w = jax.eval_shape(disc.init_with_output, KEY, jnp.zeros((2, *shape)), cond)
        assert logit(said).shape == (2,) and logit(said).dtype == jnp.float32
        if paper == "acgan":
            assert {name: y.shape for name, y in said.labels.items()} == {"label": (2, 3)}
        assert ("spectral" in v, "spectral" in w) == tuple("spectral" in fields for fields in PAPERS[paper])


@pytest.mark.parametrize("paper", PAPERS)
def test_each_example_hears_its_own_label_and_nothing_of_its_mates(paper):
    gen, disc = nets(paper, (24, 24, 3))
    z, x, cond = normal(0, 4, 9), normal(1, 4, 24, 24, 3), {"label": jnp.array([0, 1, 2, 0])}
    for net, told, first in ((gen, True, z), (disc, paper != "acgan", x)):
        variables = moved(net.init(KEY, first, cond))
        run = jax.jit(lambda a, label, net=net, v=variables: logit(net.apply(v, a, {"label": label})))
        base, other = run(first, cond["label"]), run(first, cond["label"].at[1].set(2))
        change, scale = np.abs(np.asarray(other - base)).reshape(4, -1).max(1), float(jnp.std(base))
        assert (change[1] > 1e-3 * scale) == told and np.delete(change, 1).max() <= 1e-5 * scale, (net, change)
        alone = jax.jit(lambda a, label, net=net, v=variables: logit(net.apply(v, a, {"label": label})))
        close(alone(first[2:3], cond["label"][2:3])[0], base[2], 1e-4)
        mates = run(first.at[jnp.array([0, 1, 3])].multiply(-1.0), cond["label"])
        close(mates[2], base[2], 1e-5)


def test_each_block_hears_its_own_part_of_z():
    """The first part makes the coarsest grid; with the others alone changed, the image changes too. Parts may differ in length."""
    gen, _ = nets("biggan", (24, 24, 3), 0)
    z = normal(0, 1, 10)  # 3, 3, 2 and 2 numbers: 3 -> 6 -> 12 -> 24
    variables = moved(gen.init(KEY, z))
    style = {
        name: p["Dense_0"]["kernel"].shape
        for name, p in variables["params"].items()
        if name.startswith("Norm_") and "Dense_0" in p
    }
    parts = variables["params"]["Dense_0"]["kernel"].shape[0], *(style[name][0] for name in sorted(style)[::2])
    assert sum(parts) == 10 and max(parts) - min(parts) <= 1, parts
    base = gen.apply(variables, z)
    for i in range(10):
        assert float(jnp.abs(gen.apply(variables, z.at[0, i].add(1.0)) - base).max()) > 1e-4, i


def test_heights_without_a_block_are_named():
    with pytest.raises(
        UserError, match=r"ResnetGenerator has no block that ends at a height of 16: \[14, 28\]; set attend=\(14,\)"
    ):
        ResnetGenerator(shape=(28, 28, 1), width=8, attend=(16,)).init(KEY, jnp.zeros((1, 4)))
    with pytest.raises(UserError, match=r"no block that ends at a height of 20: \[14, 7\]; set attend=\(14,\)"):
        ResnetDiscriminator(width=8, attend=(14, 20)).init(KEY, jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(UserError, match=r"at a height of 16: \[\]; set attend=\(\)"):
        ResnetGenerator(shape=(7, 7, 1), width=8, attend=(16,)).init(KEY, jnp.zeros((1, 4)))
