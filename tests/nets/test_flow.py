"""Laws of flows: each way undoes the other, volumes are those of autodiff, densities integrate to one, the start is the data's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import log_normal
from jaxgen.nets import flow

KEY = jax.random.key(0)
PARTS = {  # name -> (bijector, shape of what it takes)
    "shift": (flow.Shift(-0.5), (2, 2, 2)),
    "logit": (flow.Logit(0.05), (2, 2, 2)),
    "squeeze": (flow.Squeeze(), (2, 2, 2)),
    "actnorm": (flow.ActNorm(2), (2, 2, 2)),
    "mix": (flow.Mix(3), (2, 2, 3)),
    "affine": (flow.AffineCoupling(3, 4), (2, 2, 3)),
    "running": (flow.RunningNorm(2), (2, 2, 2)),
    "checkerboard": (flow.MaskedCoupling(2, 4, 1, True), (2, 3, 2)),
    "channels": (flow.MaskedCoupling(4, 4, 1, False), (1, 3, 4)),
    "steps": (flow.Steps(3, partial(flow.GlowStep, 4, 4)), (1, 2, 4)),
    "turns": (flow.Steps(3, partial(flow.MaskedCoupling, 2, 4, 0, True)), (2, 2, 2)),
    "realnvp": (flow.RealNvp((4, 2, 1), scales=2, width=4, blocks=0), (4, 2, 1)),
    "glow": (flow.Glow((4, 4, 1), levels=2, depth=2, width=4), (4, 4, 1)),
}


def shaken(module, x, *args):
    """Its variables, none of them where they start."""
    v = jax.jit(module.init)(KEY, x, *args)
    leaves, tree = jax.tree.flatten({k: v[k] for k in v if k != "fixed"})
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [x + 0.1 * jnp.abs(jax.random.normal(k, x.shape)) for x, k in zip(leaves, keys, strict=True)]
    return {**v, **jax.tree.unflatten(tree, noise)}


@pytest.mark.parametrize("name", PARTS)
def test_each_way_undoes_the_other_and_volumes_are_those_of_autodiff(name):
    module, shape = PARTS[name]
    x = jax.random.uniform(KEY, (3, *shape))
    v = shaken(module, x)

    @jax.jit
    def there_and_back(x):
        y, logdet = module.apply(v, x, method="forward")
        one = lambda x: module.apply(v, x[None], method="forward")[0].ravel()  # noqa: E731
        return y, logdet, *module.apply(v, y, method="inverse"), jax.vmap(jax.jacfwd(one))(x)

    _, logdet, back, undone, slope = there_and_back(x)
    assert logdet.shape == (3,)
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(logdet + undone, 0.0, atol=1e-4)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(slope.reshape(3, x[0].size, -1))[1], rtol=1e-4, atol=1e-4)


def test_a_prior_of_a_split_undoes_itself_and_knows_its_volume():
    prior, x, stays = flow.SplitPrior(2), *jax.random.normal(KEY, (2, 3, 2, 2, 2))
    v = shaken(prior, x, stays)

    @jax.jit
    def there_and_back(x):
        y, logdet = prior.apply(v, x, stays, method="forward")
        one = lambda x: prior.apply(v, x[None], stays[:1], method="forward")[0].ravel()  # noqa: E731
        return logdet, *prior.apply(v, y, stays, method="inverse"), jax.jacfwd(one)(x[0])

    logdet, back, undone, slope = there_and_back(x)
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(logdet + undone, 0.0, atol=1e-5)
    np.testing.assert_allclose(logdet[0], np.linalg.slogdet(slope.reshape(8, 8))[1], atol=1e-4)


@pytest.mark.parametrize("kind", [partial(flow.GlowStep, 2, 8), partial(flow.MaskedCoupling, 2, 8, 0, False)])
def test_the_density_of_a_flow_integrates_to_one(kind):
    module = flow.Steps(4, kind)
    side = np.linspace(-9, 9, 361)
    points = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 1, 2), jnp.float32)
    v = shaken(module, points[:8])
    y, logdet = jax.jit(lambda x: module.apply(v, x, method="forward"))(points)
    mass = np.exp(np.asarray(log_normal(y, 0.0, 0.0) + logdet, np.float64)).sum() * (side[1] - side[0]) ** 2
    np.testing.assert_allclose(mass, 1.0, atol=2e-3)


def test_a_matrix_survives_its_decomposition_and_the_first_is_a_rotation():
    w = jax.random.normal(KEY, (5, 5))
    found = flow.plu(w)
    mix, x = flow.Mix(5), jax.random.normal(KEY, (2, 3, 3, 5))
    params = {"lower": found.lower, "upper": found.upper, "logs": found.logs}
    v = {"params": params, "fixed": {"order": found.order, "sign": found.sign}}
    y, logdet = mix.apply(v, x)
    np.testing.assert_allclose(y, x @ w.T, atol=1e-4)
    np.testing.assert_allclose(logdet, 9 * np.linalg.slogdet(w)[1], rtol=1e-4)
    y, logdet = mix.apply(mix.init(KEY, x), x)
    np.testing.assert_allclose((y**2).sum(-1), (x**2).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(logdet, 0.0, atol=1e-5)


def test_every_actnorm_of_a_loop_starts_from_what_reaches_it():
    steps, x = flow.Steps(3, partial(flow.GlowStep, 4, 8)), 5.0 + 3.0 * jax.random.normal(KEY, (64, 2, 2, 4))
    v = jax.jit(steps.init)(KEY, x)
    (y, _), found = jax.jit(partial(steps.apply, mutable=["start"]))(v, x)
    first = found["start"]["step"]["norm"]
    assert first["first_bias"].shape == (3, 4)
    np.testing.assert_allclose(first["first_bias"][0], -x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(first["first_logs"][0], -np.log(x.std((0, 1, 2))), atol=1e-4)
    assert abs(first["first_bias"][1:]).max() < 1.5  # what follows sees a normed step
    again, _ = jax.jit(steps.apply)({**v, **found}, x)
    np.testing.assert_allclose(again, y, atol=1e-5)


def test_a_label_moves_the_top_and_sizes_that_do_not_halve_are_refused():
    net = flow.Glow((4, 4, 1), labels(3), levels=1, depth=1, width=4)
    u, cond = jax.random.uniform(KEY, (4, 4, 4, 1)), {"label": jnp.array([0, 1, 2, 3])}
    v = shaken(net, u, cond)
    z = jax.jit(lambda cond: net.apply(v, u, cond, method="forward")[0])
    shift = np.asarray(z(cond) - z({"label": jnp.zeros(4, int)}))
    assert not shift[0].any() and all(abs(row).max() > 1e-3 for row in shift[1:])
    for net, words in (
        (
            flow.Glow((28, 28, 1), levels=3),
            r"halves pictures 3 times, and 28x28 can be halved 2 times; set method.net.levels=2",
        ),
        (flow.RealNvp((28, 28, 1), scales=4), "set method.net.scales=3"),
        (flow.Glow((27, 28, 1), levels=1), "choose another size of the data"),
    ):
        with pytest.raises(UserError, match=words):
            jax.eval_shape(net.init, KEY, jax.ShapeDtypeStruct((1, *net.shape), jnp.float32))
