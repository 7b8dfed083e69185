"""Nets, averages, optimizers, methods: the small algebra under every family."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.net import Decay, HalfLife, Net, Power, exponent, std_of, width
from jaxgen.core.optim import Adam, Optimizer, RmsProp, Sgd, mask
from jaxgen.core.parallel import microbatches
from jaxgen.core.spec import Field, Spec
from jaxgen.core.state import TrainState, adopt
from jaxgen.errors import UserError


class Line(nn.Module):
    """One dense layer and a running mean of its inputs."""

    features: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        if train:
            mean.value = 0.5 * mean.value + 0.5 * x.mean(0)
        return nn.Dense(self.features)(x)


@dataclass(frozen=True, kw_only=True)
class Regression(LossMethod):
    """Least squares: a LossMethod whose gradient is known."""

    def example(self, batch):
        return (batch["x"],)

    def init(self, rng, batch):
        return super().init(rng, batch).replace(extra={"seen": jnp.zeros(())})

    def loss(self, w, batch, rng, train):
        out, vars = self.net.apply(w.nets["net"], batch["x"], train=train)
        error = (out[:, 0] - batch["y"]) ** 2
        return Loss(error, {"error": error}, vars, {"seen": w.extra["seen"] + len(error)} if train else {})


SPEC = Spec(x=Field((3,), "float32", "embedding"), y=Field((), "float32", "embedding", "target"))
BATCH = {"x": jax.random.normal(jax.random.key(1), (16, 3)), "y": jnp.arange(16.0)}


def fit(steps=3, ema=(), tx=None, **fields):
    method = Regression(spec=SPEC, net=Net(Line(), tx or optax.sgd(0.01), ema), **fields)
    state = method.init(jax.random.key(0), BATCH)
    trail = [state]
    for _ in range(steps):
        state, _ = jax.jit(method.train_step)(state, BATCH, jax.random.key(2))
        trail.append(state)
    return trail


class Centred(nn.Module):
    """Inputs less the mean of those that it met first, twice, a trained shift between."""

    @nn.compact
    def __call__(self, x, train=False):
        for i in range(2):
            first = self.variable("start", f"mean{i}", jnp.zeros, x.shape[-1:])
            if self.is_mutable_collection("start") and not self.is_initializing():
                first.value = x.mean(0)
            x = x - first.value + self.param(f"shift{i}", nn.initializers.ones, x.shape[-1:])
        return x.sum(-1, keepdims=True)


@pytest.mark.parametrize("parts", [1, 4])
def test_what_starts_from_data_does_so_once_in_the_first_step(parts):
    method = Regression(spec=SPEC, net=Net(Centred(), optax.sgd(0.01)), microbatches=parts)
    states = [method.init(jax.random.key(0), BATCH)]
    for shift in (0.0, 5.0):
        moved = BATCH | {"x": BATCH["x"] + shift}
        states.append(jax.jit(method.train_step)(states[-1], moved, jax.random.key(2))[0])
    fresh, first, second = (s.nets["net"].vars["start"] for s in states)
    assert not fresh["ready"] and first["ready"] and not fresh["mean0"].any()
    seen = microbatches(BATCH, parts)["x"][0]
    np.testing.assert_allclose(first["mean0"], seen.mean(0), atol=1e-6)
    np.testing.assert_allclose(first["mean1"], np.ones(3), atol=1e-6)  # the second layer saw the first at work
    jax.tree.map(np.testing.assert_array_equal, first, second)
    # no gradient goes through the start: both shifts are trained alike
    a, b = (states[1].nets["net"].params[f"shift{i}"] for i in range(2))
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert abs(a - 1).max() > 1e-3


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_microbatches_make_the_gradient_of_the_whole_batch():
    whole, parts = fit(1)[-1], fit(1, microbatches=4)[-1]
    for a, b in zip(leaves(whole.nets["net"].params), leaves(parts.nets["net"].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_microbatches_carry_the_other_collections_along():
    stats = fit(1, microbatches=4)[-1].nets["net"].vars["batch_stats"]["mean"]
    want = np.zeros(3)
    for part in np.asarray(BATCH["x"]).reshape(4, 4, 3).swapaxes(0, 1):  # strided: example i goes to part i % 4
        want = 0.5 * want + 0.5 * part.mean(0)
    np.testing.assert_allclose(stats, want, rtol=1e-5, atol=1e-6)


def test_microbatches_carry_what_the_method_remembers_along():
    for parts in (1, 2, 4):
        assert float(fit(3, microbatches=parts)[-1].extra["seen"]) == 48


def test_gradients_are_summed_not_stacked():
    """The memory of accumulated gradients does not grow with their number."""
    method = Regression(spec=SPEC, net=Net(Line(4096), optax.sgd(0.01)), microbatches=16)
    state = jax.eval_shape(method.init, jax.random.key(0), BATCH)
    program = jax.make_jaxpr(method.train_step)(state, BATCH, jax.random.key(0))
    largest = max(v.aval.size for e in program.eqns for v in e.outvars)
    assert largest <= 3 * 4096, "a leaf larger than the net's kernel: gradients are stacked"


def test_eval_step_changes_nothing_and_is_per_example():
    method = Regression(spec=SPEC, net=Net(Line(), optax.sgd(0.1)))
    state = method.init(jax.random.key(0), BATCH)
    out = method.eval_step(state.view(), BATCH, jax.random.key(3))
    assert set(out) == {"loss", "error"} and all(v.shape == (16,) for v in out.values())


RULES = (Decay(0.5, warmup=False), Decay(0.9), HalfLife(100, batch=16), Power(0.1), Power(0.05))


def test_every_average_follows_its_rule():
    trail = fit(5, ema=RULES)
    assert trail[-1].nets["net"].default == "0.5" and set(trail[-1].labels) == {rule.label for rule in RULES}
    for rule in RULES:
        mean = leaves(trail[0].nets["net"].params)
        for step, state in enumerate(trail[1:]):
            decay = float(jnp.exp(rule.log_decay(jnp.asarray(step, jnp.int32))))
            assert 0 <= decay < 1
            mean = [decay * m + (1 - decay) * p for m, p in zip(mean, leaves(state.nets["net"].params), strict=True)]
        for a, b in zip(mean, leaves(trail[-1].nets["net"].ema[rule.label]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=rule.label)


def test_averages_decay_by_the_step_however_often_a_net_is_updated():
    """Four updates that change nothing within one step leave of an average what one would."""
    net = Net(Line(), optax.set_to_zero(), (Power(0.1), HalfLife(1000, batch=16), Decay(0.99)))
    state = net.init(jax.random.key(0), BATCH["x"])
    state = state.replace(ema=jax.tree.map(lambda x: x + 1.0, state.ema))
    step, grads = jnp.int32(9), jax.tree.map(jnp.zeros_like, state.params)
    once, often = net.update(state, grads, step=step), state
    for _ in range(4):
        often = net.update(often, grads, step=step, updates=4)
    for a, b in zip(leaves(once.ema), leaves(often.ema), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_power_profile_has_the_width_it_is_named_for():
    """The weights that the rule gives to past steps have relative standard deviation `std` (EDM2, appendix C)."""
    rule, steps = Power(0.1), 4000
    decays = np.exp(np.array(rule.log_decay(jnp.arange(steps)), np.float64))
    weights = (1 - decays) * np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    time = np.arange(1, steps + 1) / steps
    mean = (weights * time).sum() / weights.sum()
    assert np.sqrt((weights * (time - mean) ** 2).sum() / weights.sum()) == pytest.approx(0.1, rel=0.01)
    gamma = exponent(0.1)
    np.testing.assert_allclose(
        np.cumsum(weights), time ** (gamma + 1), atol=1e-4
    )  # each step weighs its own interval of p


def test_decays_near_one_keep_their_digits():
    """After a million steps 1 - decay is (gamma + 1) / t to six digits; as a float32 decay it would have two."""
    share = -jnp.expm1(Power(0.1).log_decay(jnp.int32(999_999)))
    assert float(share) == pytest.approx((exponent(0.1) + 1) * 1e-6, rel=1e-5)


@pytest.mark.parametrize("std", [0.001, 0.01, 0.05, 0.1, 0.2, 0.288])
def test_width_and_exponent_are_inverse(std):
    assert width(exponent(std)) == pytest.approx(std, rel=1e-12)
    assert std_of(Power(std).label) == std


def test_widths_and_gammas_of_the_paper():
    """EDM2, section 3.1: widths 0.05 and 0.10 are exponents 16.97 and 6.94."""
    assert exponent(0.05) == pytest.approx(16.97, abs=5e-3) and exponent(0.10) == pytest.approx(6.94, abs=5e-3)


def test_half_life_is_a_half_life():
    rule = HalfLife(images=1000, rampup=0, batch=10)
    assert float(jnp.exp(rule.log_decay(jnp.int32(7)))) ** 100 == pytest.approx(0.5, rel=1e-5)


def test_half_life_ramps_up_with_the_images_seen_before():
    """EDM's training loop: min(half-life, 0.05 * images before this step); the first step forgets the start."""
    rule = HalfLife(images=1000, rampup=0.05, batch=10)
    assert float(jnp.exp(rule.log_decay(jnp.int32(0)))) == 0.0
    for step, halflife in ((100, 50.0), (2000, 1000.0), (10**6, 1000.0)):
        assert float(jnp.exp(rule.log_decay(jnp.int32(step)))) == pytest.approx(0.5 ** (10 / halflife), rel=1e-5)


def test_view_gives_averages_only_where_they_are_kept():
    state = fit(2, ema=(Decay(0.9), Power(0.2)))[-1]
    net = state.nets["net"]
    for ema, params in (
        (False, net.params),
        (True, net.ema["0.9"]),
        ("0.9", net.ema["0.9"]),
        ("std0.2", net.ema["std0.2"]),
    ):
        assert state.view(ema).nets["net"]["params"] is params
    with pytest.raises(UserError, match=r"no average 'std0.1'; the run keeps: 0.9, std0.2"):
        state.view("std0.1")
    plain = fit(2)[-1]
    for a, b in zip(leaves(plain.view(True)), leaves(plain.view(False)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_averages_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"ema of Line names two averages '0\.9'"):
        Net(Line(), optax.sgd(0.1), (Decay(0.9), Decay(0.9, warmup=False)))


def test_adopt_takes_what_fits_and_names_the_rest():
    small = Regression(spec=SPEC, net=Net(Line(1), optax.sgd(0.1))).init(jax.random.key(0), BATCH)
    wide = Regression(spec=SPEC, net=Net(Line(2), optax.sgd(0.1))).init(jax.random.key(5), BATCH)
    trained = small.replace(step=jnp.asarray(7, jnp.int32))
    got, fresh = adopt(wide, trained)
    assert int(got.step) == 7
    assert sorted(fresh) == ["nets/net/params/Dense_0/bias", "nets/net/params/Dense_0/kernel"]
    assert adopt(small, trained)[1] == []


@pytest.mark.parametrize(
    "kind", [Sgd(lr=0.1), Adam(lr=0.1), RmsProp(lr=0.1), Adam(lr=0.1, clip=1.0, weight_decay=0.01)]
)
def test_optimizers_descend(kind):
    tx, params = kind.build(), {"kernel": jnp.array([2.0, -3.0])}
    state = tx.init(params)
    for _ in range(200):
        updates, state = tx.update(params, state, params, step=0)  # gradient of |x|^2 / 2
        params = optax.apply_updates(params, updates)
    assert float(jnp.abs(params["kernel"]).max()) < 0.2


def test_schedules_warm_up_and_end_where_they_say():
    rate = Adam(lr=1.0, warmup=10, schedule="cosine", final=0.1, schedule_steps=100).rate()
    assert 0 < float(rate(0)) < 0.1 + 1e-6
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(100)) == pytest.approx(0.1)
    assert all(float(rate(t)) >= float(rate(t + 5)) for t in range(10, 95, 5))


def test_the_inverse_square_root_holds_then_falls_whatever_the_warm_up():
    for warmup in (0, 20):
        rate = Adam(lr=2.0, warmup=warmup, schedule="inverse_sqrt", hold=100).rate()
        assert [float(rate(t)) for t in (50, 100, 400, 10_000)] == pytest.approx([2.0, 2.0, 1.0, 0.2])
    with pytest.raises(UserError, match=r"optimizer\.hold"):
        Adam(schedule="inverse_sqrt").rate()


@pytest.mark.parametrize("kind", [Adam, Sgd])
def test_forced_normalisation_keeps_the_chosen_at_unit_magnitude_along_the_step_s_direction(kind):
    """EDM2, section 2.3: after every step; biases and gains stay free, and the direction is the optimizer's own."""
    params = {
        "kernel": 3 * jax.random.normal(jax.random.key(0), (3, 3, 4, 5)),
        "gain": jnp.ones(()),
        "bias": jnp.ones(5),
    }
    grads = jax.tree.map(lambda p: jnp.cos(7 * p), params)

    def step(**fields):
        tx = kind(lr=0.1, **fields).build()
        return optax.apply_updates(params, tx.update(grads, tx.init(params), params, step=jnp.int32(0))[0])

    free, forced = step(), step(unit=".*kernel")
    np.testing.assert_allclose(jnp.mean(forced["kernel"] ** 2, (0, 1, 2)), 1.0, rtol=1e-5)
    size = jnp.sqrt(jnp.mean(free["kernel"] ** 2, (0, 1, 2)))
    np.testing.assert_allclose(forced["kernel"], free["kernel"] / size, atol=1e-5)
    np.testing.assert_allclose([forced["gain"], *forced["bias"]], [free["gain"], *free["bias"]], rtol=1e-6)


def test_schedules_follow_the_runs_step_not_the_number_of_updates():
    tx, params = Sgd(lr=1.0, schedule="linear", schedule_steps=10).build(), {"kernel": jnp.ones(1)}
    state = tx.init(params)
    for _ in range(5):  # five updates of a critic within one step
        updates, state = tx.update(params, state, params, step=jnp.int32(5))
        assert float(updates["kernel"][0]) == pytest.approx(-0.5)


def test_masks_freeze_by_path():
    tx = Sgd(lr=1.0, train=r"body/.*").build()
    params = {"body": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params, step=0)
    assert float(updates["head"]["kernel"][0]) == 0.0 and float(updates["body"]["kernel"][0]) == -1.0
    assert mask(r".*bias")({"a": {"bias": 0, "kernel": 0}}) == {"a": {"bias": True, "kernel": False}}


def test_an_unknown_schedule_names_those_there_are():
    with pytest.raises(UserError, match=r"cosin.*constant, cosine, linear"):
        Optimizer(schedule="cosin").rate()


def test_state_is_one_value():
    state = fit(1)[-1]
    assert isinstance(state, TrainState) and jax.tree.structure(state) == jax.tree.structure(fit(0)[-1])


def test_an_update_far_above_the_usual_is_left_out_but_not_for_ever():
    tx = Sgd(lr=1.0, skip=10.0).build()
    sizes = jnp.array([100.0, *[1.0] * 20, *[11.0] * 40])

    def go(state, size):
        change, state = tx.update(jnp.array([size, 0.0]), state, jnp.zeros(2), step=0)
        return state, -change[0]

    took = np.asarray(jax.lax.scan(go, tx.init(jnp.zeros(2)), sizes)[1])
    np.testing.assert_array_equal(took[:21], sizes[:21])  # nothing is usual at first
    np.testing.assert_array_equal(took[21:29], [0.0, 0.0, 0.0, 11.0] * 2)
    np.testing.assert_array_equal(took[-10:], 11.0)  # it has become usual
