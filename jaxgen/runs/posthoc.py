"""Averages of any length after training (Karras et al. 2023, EDM2, arXiv:2312.02696, section 3 and appendix C).

The weights theta(tau) of a run, averaged with exponent gamma up to step t, are int_0^t p(tau) theta(tau) dtau with

    p(tau; gamma, t) = (gamma + 1) tau^gamma / t^(gamma + 1).

Averages p_i that were kept while training (config.snapshot_every) span others: a target profile q is approached by

    min_x |sum_i x_i p_i - q|^2   with   sum_i x_i = 1,      so that  theta_q ~ sum_i x_i theta_i.

The paper leaves the sum free; holding it at 1 keeps what all weights have in common exactly, which is most of a net, and makes
reconstructions from few snapshots several times nearer (tests/core/test_posthoc.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.net import exponent, std_of
from jaxgen.core.state import PyTree, TrainState, Weights
from jaxgen.errors import UserError
from jaxgen.runs.checkpoint import Averages

Profile = tuple[float, float]  # relative width std, time t in steps
HOW = "train with ema=dict(name='power', std=0.05) and config.snapshot_every=N"


def inner(gamma_a: np.ndarray, t_a: np.ndarray, gamma_b: np.ndarray, t_b: np.ndarray) -> np.ndarray:
    """int p(tau; gamma_a, t_a) p(tau; gamma_b, t_b) dtau over [0, min(t_a, t_b)], elementwise in float64."""
    end = np.minimum(t_a, t_b)
    density = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return density * (end / t_a) ** gamma_a * (end / t_b) ** gamma_b / np.maximum(t_a, t_b)


def _normal(snapshots: Sequence[Profile], std: float, t: float) -> tuple[np.ndarray, np.ndarray]:
    """A [N + 1, N + 1]: inner products of the snapshots and, last, of the target; and the norms, by which A is scaled."""
    gammas = np.array([exponent(s) for s, _ in snapshots] + [exponent(std)])
    times = np.array([t_i for _, t_i in snapshots] + [t], np.float64)
    products = inner(gammas[:, None], times[:, None], gammas[None], times[None])
    norms = np.sqrt(np.diag(products))
    return products / np.outer(norms, norms), norms


def coefficients(snapshots: Sequence[Profile], std: float, t: float) -> np.ndarray:
    """Coefficients [N], float64, with which averages (std_i, t_i) approach the average of relative width `std` at step t.

    A std outside (0, 0.289), no snapshots, and a t that lies outside the snapshots' are UserErrors.
    """
    if not snapshots:
        raise UserError(f"there are no snapshots to reconstruct std{std} from: {HOW}")
    first, last = min(t_i for _, t_i in snapshots), max(t_i for _, t_i in snapshots)
    if not first <= t <= last:
        raise UserError(f"std{std} of step {t:g} cannot be reconstructed from snapshots of steps {first:g} to {last:g}")
    a, norms = _normal(snapshots, std, t)
    norms, norm = norms[:-1], norms[-1]
    right = np.stack([a[:-1, -1] * norm, 1 / norms], 1)  # [N, 2]: the target, and the constraint
    free, ones = (np.linalg.lstsq(a[:-1, :-1], right, rcond=None)[0] / norms[:, None]).T
    return free + (1 - free.sum()) / ones.sum() * ones  # Lagrange: the least change of profile that makes the sum 1


def mismatch(snapshots: Sequence[Profile], x: np.ndarray, std: float, t: float) -> float:
    """|sum_i x_i p_i - q| / |q|: how far the profile is from the one asked for."""
    a, norms = _normal(snapshots, std, t)
    error = np.append(x, -1.0) * norms
    return float(np.sqrt(max(error @ a @ error, 0.0)) / norms[-1])


def powers(state: TrainState) -> dict[str, dict[str, PyTree]]:
    """The power averages of a state, net -> label -> params: what snapshots hold; {} where there are none."""
    found = {k: {label: tree for label, tree in net.ema.items() if std_of(label)} for k, net in state.nets.items()}
    return {k: averages for k, averages in found.items() if averages}


@dataclass(frozen=True)
class Choice:
    """The weights that `--weights` names. What can be refused is refused before they are made."""

    name: str  # for records and file names: raw, 0.999, std0.07
    weights: Callable[[], Weights]
    how: str = ""  # how they are reconstructed

    def __str__(self) -> str:
        """In words: raw weights, averaged weights 0.999."""
        return "raw weights" if self.name == "raw" else f"averaged weights {self.name} {self.how}".rstrip()


def default_name(state: TrainState) -> str:
    """Of the default averages of all nets: 0.999; raw where none is kept."""
    return "+".join(dict.fromkeys(net.default for net in state.nets.values() if net.ema)) or "raw"


def choose(state: TrainState, name: str, averages: Averages) -> Choice:
    """raw, ema (the default averages), the label of an average that is kept, or stdX for one to reconstruct."""
    if name == "raw":
        return Choice(name, state.view)
    if name == "ema":
        return Choice(default_name(state), lambda: state.view(ema=True))
    std, own = std_of(name), powers(state)
    name = f"std{std}" if std else name
    everywhere = not std or all(name in kept for kept in own.values())
    if name in state.labels and (everywhere or not averages.steps()):
        return Choice(name, lambda: state.view(ema=name))
    if std:
        return reconstruct(state, std, averages)
    known = ", ".join(["raw", "ema", *state.labels])
    raise UserError(f"--weights={name} is unknown; there are: {known}, and stdX (0 < X < 0.289) in runs with snapshots")


def reconstruct(state: TrainState, std: float, averages: Averages) -> Choice:
    """Weights averaged with relative width `std` up to the state's step, in every net that keeps power averages.

    The other nets give their default averages. The state's own averages count as the snapshot of its step.
    """
    at, own = int(state.step), powers(state)
    earlier = [step for step in averages.steps() if step < at]
    if not own or not earlier:
        lack = f"no snapshots before step {at} in {averages.folder}" if own else "no power averages in this run"
        raise UserError(f"std{std} is not kept and cannot be reconstructed: there are {lack}; {HOW}")
    steps = [*earlier, at]
    share: dict[str, np.ndarray] = {}  # net -> [steps, labels]
    worst = 0.0
    for net, kept in own.items():
        profiles = [(std_of(label), float(step)) for step in steps for label in kept]
        x = coefficients(profiles, std, at)
        worst = max(worst, mismatch(profiles, x, std, at))
        share[net] = x.reshape(len(steps), len(kept))
    how = f"reconstructed from snapshots of {len(steps)} steps, profile within {100 * worst:.2g} %"

    def make() -> Weights:
        total = {net: jax.tree.map(jnp.zeros_like, next(iter(kept.values()))) for net, kept in own.items()}
        for i, step in enumerate(steps):  # one by one: the memory is a snapshot and the sum
            found = own if step == at else averages.restore(step, own)
            total = _add(total, found, {net: dict(zip(own[net], x[i], strict=True)) for net, x in share.items()})
        w = state.view(ema=True)
        return w.replace(nets={k: {**v, "params": total[k]} if k in total else v for k, v in w.nets.items()})

    return Choice(f"std{std}", make, how)


@jax.jit
def _add(total: PyTree, found: PyTree, share: dict[str, dict[str, float]]) -> PyTree:
    """total + sum over labels of share * average, net by net."""
    for net, averages in found.items():
        for label, average in averages.items():
            total = {**total, net: jax.tree.map(lambda t, a, s=share[net][label]: t + s * a, total[net], average)}
    return total
