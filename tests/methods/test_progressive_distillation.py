"""Progressive distillation: what the student aims at, when it becomes the teacher, and that it ends where the teacher did."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.lender import Frozen
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.diffusion.objective import Hybrid
from jaxgen.diffusion.predict import X0, Eps
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.times import Importance
from jaxgen.errors import UserError
from jaxgen.methods.diffusion import Diffusion
from jaxgen.methods.progressive_distillation import ProgressiveDistillation

PROCESS = VP("cosine", steps=64)
SPEC = pictures((1, 1, 1))
WIDE = 0.5  # standard deviation of the data N(0, WIDE^2)


class Slopes(nn.Module):
    """x_0 = slope(t) x, a slope for each step of the chain, all of them `start` at first."""

    start: float = 0.0

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        slopes = self.param("slopes", nn.initializers.constant(self.start), (PROCESS.steps,))
        return slopes[jnp.round(clock).astype(int)].reshape(-1, 1, 1, 1) * x


def make(**more):
    net = Net(Slopes(), optax.with_extra_args_support(optax.adam(0.02)))
    parts = {"process": PROCESS, "predict": X0(), "last": 1, "rounds": 3, "round_steps": 200, "spec": SPEC}
    return ProgressiveDistillation(**{"net": net, "teacher": "DIR", **parts, **more})


def exact():
    """Slopes of the data's own denoiser."""
    t = np.arange(1, PROCESS.steps + 1) / PROCESS.steps
    a, s = PROCESS.alpha(t), PROCESS.sigma(t)
    return {"slopes": jnp.asarray(a * WIDE**2 / (a**2 * WIDE**2 + s**2), jnp.float32)}


def image(rng, num=64):
    return {"image": WIDE * jax.random.normal(rng, (num, 1, 1, 1))}


def test_one_step_to_the_target_ends_where_two_steps_of_the_teacher_end():
    method = make()
    z = jax.random.normal(jax.random.key(0), (5, 1, 1, 1))
    for t, middle, end in ((1.0, 0.75, 0.5), (0.5, 0.375, 0.25), (0.25, 0.125, 0.0)):
        full = [jnp.full(5, v) for v in (t, middle, end)]

        def denoise(x, t):
            return jnp.tanh(2 * x) * (1 - t.reshape(-1, 1, 1, 1))

        aim = method.halved(denoise, z, *full)
        times = [np.array([v]) for v in (t, middle, end)]

        def ddim(x, d, start, stop):
            row = Ddim(clip=False).between(PROCESS, start, stop).mix[0, 0]
            return row[0] * x + row[1] * d

        between = ddim(z, denoise(z, full[0]), *times[:2])
        want = ddim(between, denoise(between, full[1]), *times[1:])
        np.testing.assert_allclose(ddim(z, aim, times[0], times[2]), want, rtol=1e-4, atol=1e-5)


def test_a_teacher_who_knows_the_image_is_believed():
    method, z = make(), jax.random.normal(jax.random.key(0), (3, 1, 1, 1))
    aim = method.halved(lambda x, t: jnp.full_like(x, 0.3), z, jnp.full(3, 0.5), jnp.full(3, 0.25), jnp.zeros(3))
    np.testing.assert_allclose(aim, 0.3, rtol=1e-5)


def test_every_round_has_half_the_times_of_the_one_before():
    method = make()
    w = method.init(jax.random.key(0), image(jax.random.key(0))).view()
    seen = []
    for number in range(3):
        at = w.replace(extra={**w.extra, "round": jnp.asarray(number)})
        seen.append(np.unique(method.when(at, jax.random.key(1), 500)[0]))
    assert [len(s) for s in seen] == [4, 2, 1]
    np.testing.assert_allclose(seen[0], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(seen[2], [1.0])


def test_at_the_end_of_a_round_the_student_is_the_teacher_and_starts_again():
    method = make(round_steps=2)
    state = method.init(jax.random.key(0), image(jax.random.key(0)))
    step = jax.jit(method.train_step)
    teachers, counts = [], []
    for i in range(7):
        before = state.nets["net"].params["slopes"]
        state, metrics = step(state, image(jax.random.key(i)), jax.random.key(i))
        teachers.append(state.extra["teacher"]["params"]["slopes"])
        counts.append(int(metrics["steps"]))
        if i in (2, 4):
            np.testing.assert_array_equal(teachers[-1], before)
            assert int(state.nets["net"].opt[0].count) == 1  # the optimizer began anew
        elif i:
            np.testing.assert_array_equal(teachers[-1], teachers[-2])
    assert counts == [4, 4, 2, 2, 1, 1, 1]


def test_the_student_does_in_one_step_what_the_teacher_did_in_eight():
    method = make()
    state = method.init(jax.random.key(0), image(jax.random.key(0)))
    like = Diffusion(net=method.net, process=PROCESS, predict=X0(), solver=Ddim(8), spec=SPEC)
    lent = like.init(jax.random.key(0), image(jax.random.key(0))).view()
    lent = lent.replace(nets={"net": {"params": exact()}})
    state = method.inherit(state, {"teacher": Frozen(lent, like)})

    def slope(variables, steps):
        denoise = method.unguided(variables)
        x = jnp.ones((1, 1, 1, 1))
        return float(Ddim(steps, clip=False)(lambda x, t: denoise(x, t, {}), PROCESS, x, jax.random.key(0)).squeeze())

    eight, one = slope(lent.nets["net"], 8), slope(lent.nets["net"], 1)
    batches = jax.vmap(image)(jax.random.split(jax.random.key(1), 600))
    keys = jax.random.split(jax.random.key(2), 600)
    train = jax.jit(lambda state: jax.lax.scan(lambda s, i: method.train_step(s, *i), state, (batches, keys))[0])
    got = slope(train(state).view().nets["net"], 1)
    assert abs(one - eight) > 0.1  # unlike its teacher in one step
    assert abs(got - eight) < 0.01


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predict": Eps()}, "needs a prediction that gives an image at t=1; set method.predict=v"),
        ({"objective": Hybrid()}, "needs a variance that is not learned; set method.objective.name=simple"),
        ({"times": Importance()}, "needs evenly drawn times; set method.times.name=uniform"),
    ],
)
def test_mistakes_name_the_field(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_more_steps_than_the_chain_has_are_refused():
    with pytest.raises(UserError, match="128"):
        make(rounds=7).grid  # noqa: B018
