"""Averages reconstructed after training: the algebra of profiles, on trajectories whose averages are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.net import Decay, Net, Power, exponent
from jaxgen.core.state import TrainState
from jaxgen.errors import UserError
from jaxgen.evaluate import table
from jaxgen.evaluation.per_image import best
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.posthoc import choose, coefficients, inner, mismatch, powers

STORED = (0.05, 0.1)


def profile(tau, std, t):
    """p(tau; gamma, t), zero after t."""
    gamma = exponent(std)
    return np.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)


@pytest.mark.parametrize("a", [(0.05, 100.0), (0.2, 40.0)])
@pytest.mark.parametrize("b", [(0.1, 100.0), (0.28, 70.0), (0.01, 30.0)])
def test_inner_products_are_integrals(a, b):
    tau = (np.arange(400_000) + 0.5) / 400_000 * 100
    integral = (profile(tau, *a) * profile(tau, *b)).sum() * 100 / 400_000
    assert inner(exponent(a[0]), a[1], exponent(b[0]), b[1]) == pytest.approx(integral, rel=1e-4, abs=1e-12)


def snapshots(count: int, total: int) -> list[tuple[float, float]]:
    """Both stored widths at `count` even steps up to `total`."""
    return [(std, float(t)) for t in np.linspace(total / count, total, count).round() for std in STORED]


@pytest.mark.parametrize("count", [1, 5, 32])
def test_a_stored_profile_is_itself(count):
    kept = snapshots(count, 960)
    for i in {0, count, 2 * count - 1}:
        std, t = kept[i]
        x = coefficients(kept, std, t)
        np.testing.assert_allclose(x, np.arange(len(kept)) == i, atol=1e-6)
        assert mismatch(kept, x, std, t) < 1e-6


def test_coefficients_sum_to_one_and_mismatch_is_the_distance_of_the_profiles():
    kept, std, t = snapshots(6, 960), 0.2, 960.0
    x = coefficients(kept, std, t)
    assert x.sum() == pytest.approx(1.0, abs=1e-9)
    tau = (np.arange(100_000) + 0.5) / 100_000 * t
    made = sum(c * profile(tau, *p) for c, p in zip(x, kept, strict=True))
    want = profile(tau, std, t)
    assert mismatch(kept, x, std, t) == pytest.approx(np.linalg.norm(made - want) / np.linalg.norm(want), rel=1e-3)
    nudged = x + 1e-3 * np.eye(len(x))[0] - 1e-3 * np.eye(len(x))[-1]  # any other choice with that sum is worse
    assert mismatch(kept, nudged, std, t) > mismatch(kept, x, std, t)


@pytest.fixture(scope="module")
def trail() -> np.ndarray:
    """[960, 50]: what a net's weights do: a start, a decelerating drift, a random walk."""
    rng, t = np.random.default_rng(0), np.arange(1, 961)[:, None] / 960
    walk = 0.02 * np.cumsum(rng.normal(size=(960, 50)), 0)
    return rng.normal(size=50) + rng.normal(size=50) * t**0.5 + walk


def average(trail: np.ndarray, std: float) -> np.ndarray:
    """Tracked as `Power` does it, after every step."""
    now, out = np.zeros(trail.shape[1]), []
    for decay, x in zip(np.exp(np.float64(Power(std).log_decay(jnp.arange(len(trail))))), trail, strict=True):
        now = decay * now + (1 - decay) * x
        out.append(now)
    return np.stack(out)


@pytest.mark.parametrize(("std", "t"), [(0.03, 960), (0.07, 960), (0.15, 960), (0.2, 960), (0.07, 480)])
def test_reconstructions_are_the_averages_that_were_not_kept(trail, std, t):
    stored = {s: average(trail, s) for s in STORED}
    want, errors = average(trail, std)[t - 1], []
    for count in (4, 8, 16, 32):
        kept = snapshots(count, 960)
        made = coefficients(kept, std, t) @ np.stack([stored[s][int(step) - 1] for s, step in kept])
        errors.append(np.linalg.norm(made - want) / np.linalg.norm(want))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 10
    assert errors[-1] < 1e-3


def test_a_sum_of_one_brings_reconstructions_nearer(trail):
    """What the paper leaves free: without the constraint eight steps lose a part of the weights themselves."""
    kept = snapshots(8, 960)
    rows = np.stack([average(trail, s)[int(step) - 1] for s, step in kept])
    gammas, times = np.array([exponent(s) for s, _ in kept]), np.array([t for _, t in kept])
    for std in (0.02, 0.07, 0.15, 0.2, 0.25):
        free = np.linalg.solve(
            inner(gammas[:, None], times[:, None], gammas[None], times[None]),
            inner(gammas, times, exponent(std), 960.0),
        )
        want = average(trail, std)[-1]
        error, loose = (np.linalg.norm(x @ rows - want) for x in (coefficients(kept, std, 960), free))
        assert error < 0.7 * loose


def test_what_cannot_be_reconstructed_is_told():
    kept = snapshots(4, 100)
    for arguments, words in (
        (([], 0.1, 1), r"no snapshots to reconstruct std0.1 .*snapshot_every"),
        ((kept, 0.3, 100), "between 0 and 0.289"),
        ((kept, 0.0, 100), "between 0 and 0.289"),
        ((kept, 0.1, 101), "step 101 .* steps 25 to 100"),
        ((kept, 0.1, 24), "step 24 .* steps 25 to 100"),
    ):
        with pytest.raises(UserError, match=words):
            coefficients(*arguments)


NETS = {
    "gen": Net(nn.Dense(3), optax.sgd(0.1), (Decay(0.9), Power(0.05), Power(0.1))),
    "disc": Net(nn.Dense(2), optax.sgd(0.1), (Power(0.1),)),
    "plain": Net(nn.Dense(1), optax.sgd(0.1)),
}


def run(steps: int) -> list[TrainState]:
    """Random walks of three nets that are averaged by other rules each."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    nets = {k: net.init(next(keys), jnp.ones((1, 2))) for k, net in NETS.items()}
    trail = [TrainState(step=jnp.zeros((), jnp.int32), nets=nets)]
    for _ in range(steps):
        old = trail[-1]
        grads = {
            k: jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), n.params) for k, n in old.nets.items()
        }
        nets = {k: NETS[k].update(n, grads[k], step=old.step) for k, n in old.nets.items()}
        trail.append(old.replace(step=old.step + 1, nets=nets))
    return trail


def test_weights_by_name(tmp_path):
    """raw, ema, labels and reconstructions, over nets that keep averages of their own; snapshots are read one by one."""
    trail = run(6)
    averages = Averages(tmp_path)
    for state in trail[2::2]:
        averages.write(int(state.step), powers(state))
    averages.close()
    averages, state = Averages(tmp_path, read_only=True), trail[6]
    assert averages.steps() == [2, 4, 6] and set(powers(state)) == {"gen", "disc"}

    def params(name):
        w = choose(state, name, averages)
        return w.name, {k: v["params"]["kernel"] for k, v in w.weights().nets.items()}

    def kept(net, label):
        return state.nets[net].ema[label]["kernel"]

    raw = {k: n.params["kernel"] for k, n in state.nets.items()}
    for asked, name, gen, disc in (
        ("raw", "raw", raw["gen"], raw["disc"]),
        ("ema", "0.9+std0.1", kept("gen", "0.9"), kept("disc", "std0.1")),
        ("0.9", "0.9", kept("gen", "0.9"), kept("disc", "std0.1")),
        ("std0.10", "std0.1", kept("gen", "std0.1"), kept("disc", "std0.1")),
    ):
        told, found = params(asked)
        assert told == name
        for net, want in {"gen": gen, "disc": disc, "plain": raw["plain"]}.items():
            np.testing.assert_array_equal(found[net], want, err_msg=f"{asked} {net}")
    told, found = params("std0.05")  # gen keeps it, disc does not
    assert told == "std0.05"
    np.testing.assert_allclose(found["gen"], kept("gen", "std0.05"), rtol=1e-5, atol=1e-6)
    want = sum(
        x * np.float64(s.nets["disc"].ema["std0.1"]["kernel"])
        for x, s in zip(coefficients([(0.1, 2.0), (0.1, 4.0), (0.1, 6.0)], 0.05, 6.0), trail[2::2], strict=True)
    )
    np.testing.assert_allclose(found["disc"], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"--weights=0.99 is unknown; there are: raw, ema, 0.9, std0.1, std0.05"):
        choose(state, "0.99", averages)
    with pytest.raises(UserError, match=r"no snapshots before step 2.*snapshot_every"):
        choose(trail[2], "std0.07", averages)
    bare = state.replace(nets={"plain": state.nets["plain"]})
    with pytest.raises(UserError, match="no power averages in this run"):
        choose(bare, "std0.07", averages)
    assert choose(bare, "ema", averages).name == "raw"


def test_checkpoints_keep_every_average_and_another_model_is_named_not_called_damaged(tmp_path):
    state = run(2)[-1]
    like = jax.eval_shape(lambda: state)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=state.step.sharding), like)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    _, found = checkpoints.restore(lambda _: like)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    net = like.nets["plain"]
    others = {
        r"extra/memory is missing there and \(\) int32 here": like.replace(extra={"memory": like.step}),
        r"nets/plain/params/.* is \(.*\) float32 there and \(7,\) float32 here": like.replace(
            nets={**like.nets, "plain": net.replace(params=jax.tree.map(lambda x: jax.ShapeDtypeStruct(
                (7,), x.dtype, sharding=x.sharding), net.params))}),
        "step is .* int32 there and .* float32 here": like.replace(
            step=jax.ShapeDtypeStruct((), np.float32, sharding=like.step.sharding)),
    }  # fmt: skip
    for words, other in others.items():
        with pytest.raises(UserError, match=f"checkpoint 2 in .* is of another model: {words}; use the config"):
            checkpoints.trained(lambda _, other=other: other)


def test_the_table_marks_the_best_where_there_is_one():
    rows = {
        "loss": [0.3, 0.1, 0.2],
        "psnr": [20.0, 21.0, 22.0],
        "fid@297:native": [3.0, 4.0, 5.0],
        "d_real": [1.0, 2.0, 3.0],
    }
    marks = {metric: best(metric, values) for metric, values in rows.items()}
    assert marks == {"loss": 1, "psnr": 2, "fid@297:native": 0, "d_real": -1}
    assert best("fid@297:native +-", [1.0, 2.0]) == -1 and best("gaussian_psnr", [1.0, 2.0]) == 1
    lines = table(["std0.05", "std0.1", "std0.2"], rows, marks).splitlines()
    assert [line.count("*") for line in lines] == [0, 1, 1, 1, 0] and "0.1*" in lines[1]
