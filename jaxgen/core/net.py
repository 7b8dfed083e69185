"""A Net: a Flax module, the optimizer that trains it and the averages kept of it."""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.adapter import Lora
from jaxgen.core.layout import Alike
from jaxgen.core.optim import mask
from jaxgen.core.ranges import BelowOne, NonNegative, Positive, Range
from jaxgen.core.spec import BatchSize
from jaxgen.core.state import Array, NetState, PyTree, Variables, others, path_name
from jaxgen.errors import UserError

WIDEST = 12**-0.5  # relative standard deviation of the flat profile, which weighs all of the past alike


class Ema(Protocol):
    """An averaging rule: ema <- decay * ema + (1 - decay) * params, once a step."""

    @property
    def label(self) -> str:
        """The average's name in states, files and on the command line."""

    def log_decay(self, step: Array) -> Array | float:
        """Logarithm of the decay of the update made at `step` (0 for the first): exact where the decay is nearly 1."""


@dataclass(frozen=True)
class NoEma:
    """Keep no average."""

    @property
    def label(self) -> str:
        """What there is without an average."""
        return "raw"

    def log_decay(self, step: Array) -> float:
        """log 0: the average would be the weights themselves."""
        return -math.inf


@dataclass(frozen=True)
class Decay:
    """Constant decay; with `warmup` min(rate, (1 + t) / (10 + t)), so that short runs forget their random start."""

    rate: BelowOne = 0.9999
    warmup: bool = True

    @property
    def label(self) -> str:
        """Such as 0.9999."""
        return f"{self.rate}"

    def log_decay(self, step: Array) -> Array | float:
        """log `rate`, approached from log 0.1 during the first 10 / (1 - rate) steps."""
        rate = math.log(self.rate) if self.rate else -math.inf
        return jnp.minimum(rate, jnp.log1p(-9.0 / (10.0 + step))) if self.warmup else rate


@dataclass(frozen=True)
class HalfLife:
    """Half-life in images, at most `rampup` times the images seen before (Karras et al. 2022, EDM); rampup=0: no limit."""

    images: Positive = 500_000.0
    rampup: NonNegative = 0.05
    batch: BatchSize = 1

    @property
    def label(self) -> str:
        """Such as 500000img."""
        return f"{self.images:.0f}img"

    def log_decay(self, step: Array) -> Array | float:
        """log 0.5 ** (batch / half-life)."""
        halflife = jnp.minimum(self.images, self.rampup * self.batch * step) if self.rampup else self.images
        return math.log(0.5) * self.batch / jnp.maximum(halflife, 1e-8)


@dataclass(frozen=True)
class Power:
    """Power-function profile of relative width `std` (Karras et al. 2023, EDM2, eq. 2): decay (1 - 1/t) ** (gamma + 1).

    After update T the weight of update t is (t^(gamma+1) - (t-1)^(gamma+1)) / T^(gamma+1): the profile has the same shape
    however long the run, and other widths can be reconstructed afterwards (jaxgen.runs.posthoc).
    """

    std: Annotated[float, Range(above=0, below=WIDEST)] = 0.1

    @property
    def label(self) -> str:
        """Such as std0.1."""
        return f"std{self.std}"

    def log_decay(self, step: Array) -> Array:
        """(gamma + 1) log(1 - 1/t) with t = step + 1: 0 takes the first update whole."""
        return (exponent(self.std) + 1.0) * jnp.log1p(-1.0 / (step + 1.0))


def width(gamma: float) -> float:
    """Relative standard deviation of the power-function profile of exponent gamma (EDM2, appendix C)."""
    return (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5


@functools.cache
def exponent(std: float) -> float:
    """The inverse of `width`; a std outside (0, 0.289) is a UserError."""
    if not 0.0 < std < WIDEST:
        raise UserError(f"std={std} is no width of an average: it must lie between 0 and 0.289, such as 0.05")
    low, high = 0.0, 1.0 / std
    for _ in range(200):  # the width falls monotonically, and is less than 1 / gamma
        mid = 0.5 * (low + high)
        low, high = (mid, high) if width(mid) > std else (low, mid)
    return low


def std_of(label: str) -> float:
    """The width in a power average's label (std0.1 -> 0.1); 0 for every other text."""
    try:
        return float(label.removeprefix("std")) if label.startswith("std") else 0.0
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class Net:
    """Module + optimizer + averages. All functions are pure; the state lives in NetState."""

    module: nn.Module
    tx: optax.GradientTransformation = field(compare=False)  # closures, which never equal another build's
    ema: tuple[Ema, ...] = ()  # the first is the default
    alike: Alike | None = field(default=None, compare=False)  # params that the optimizer treats alike, number by number
    optimizer: Any = field(default=None, compare=False)  # what `tx` was built from (an Optimizer)

    adapter: Lora | None = None  # what is trained instead of the params of a base

    def __post_init__(self) -> None:
        labels = [rule.label for rule in self.ema]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            kind = type(self.module).__name__
            raise UserError(f"the ema of {kind} names two averages {twice[0]!r}; keep one of them, or change its value")

    def init(self, rng: Array, *args: Any, **kwargs: Any) -> NetState:
        """Random variables for inputs shaped like `args`; the averages start at the params."""
        rngs = dict.fromkeys(("params", "dropout", "noise", "style"), rng)
        variables = dict(self.module.init(rngs, *args, **kwargs))
        params = variables.pop("params", {})
        if self.adapter and variables:
            kind = type(self.module).__name__
            raise UserError(
                f"method.net.adapter is for nets of params alone, and {kind} has {min(variables)}; set it to None"
            )
        params = self.adapter.init(rng, params) if self.adapter else params
        trained = getattr(self.optimizer, "train", ".*")
        if params and not any(jax.tree.leaves(mask(trained)(params))):
            raise UserError(
                f"optimizer.train={trained!r} matches no param of {type(self.module).__name__}, such as "
                f"{path_name(next(iter(jax.tree_util.tree_leaves_with_path(params)))[0])}; set optimizer.train='.*'"
            )
        if "start" in variables:
            variables["start"] = {**variables["start"], "ready": jnp.zeros((), bool)}
        ema = {rule.label: jax.tree.map(jnp.copy, params) for rule in self.ema}
        return NetState(params=params, opt=self.tx.init(params), vars=variables, ema=ema, default=next(iter(ema), ""))

    def apply(
        self,
        variables: Variables,
        *args: Any,
        train: bool = False,
        rngs: dict[str, Array] | None = None,
        method: str | None = None,
        hold: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> tuple[Any, Variables]:
        """Run the module -> (output, its collections but params); these come back changed only with train=True.

        Collections named in `hold` come back as they are even then.
        """
        variables = self.adapter.on(variables, apart=train) if self.adapter else variables
        vars = others(variables)
        if not train:
            return self.module.apply(variables, *args, train=False, rngs=rngs, method=method, **kwargs), vars
        if "start" in vars:
            vars["start"] = self.begin(variables, *args, rngs=rngs, method=method, **kwargs)
            variables, hold = {**variables, "start": vars["start"]}, (*hold, "start")
        out, new = self.module.apply(
            variables, *args, train=True, rngs=rngs, method=method, mutable=[k for k in vars if k not in hold], **kwargs
        )
        return out, {**vars, **new}

    def begin(self, variables: Variables, *args: Any, **options: Any) -> PyTree:
        """The collection "start": what layers take from the first batch that they are trained on, and keep (actnorm, weight norm).

        A layer writes it where `self.is_mutable_collection("start")`, and uses at once what it wrote: those behind it see that.
        Under jit the batch is that of all devices. The first call of a step must reach all such layers.
        """

        def measured() -> PyTree:
            held = jax.lax.stop_gradient(variables)
            _, found = self.module.apply(held, *args, train=True, mutable=list(others(held)), **options)
            return {**found["start"], "ready": jnp.ones((), bool)}

        return jax.lax.cond(variables["start"]["ready"], lambda: variables["start"], measured)

    def lined_up(self, s: NetState, grads: PyTree) -> PyTree:
        """Gradients as the update works with them: joined where the state has a layout; also by whoever needs their norm."""
        if s.layout is None or jax.tree.structure(grads) != s.layout.structure:
            return grads
        return jax.lax.optimization_barrier(s.layout.join(grads))

    def slowed(self, share: float) -> "Net":
        """The net whose optimizer makes smaller steps and forgets more slowly by so much (see `Optimizer.slowed`)."""
        optimizer = self.optimizer.slowed(share)
        return replace(self, optimizer=optimizer, tx=optimizer.build())

    def update(
        self,
        s: NetState,
        grads: PyTree,
        vars: Variables | None = None,
        *,
        step: Array,
        updates: int = 1,
        average: bool = True,
    ) -> NetState:
        """One optimizer step, then the averages; `vars` replaces the other collections when given.

        A net updated several times a step says how often (`updates`), so that its averages decay by the step all the same.
        Without `average` they stay; `follow` moves them later.
        Where the state has a layout, all of this is done on vectors; the barriers keep XLA from cutting the sweep up again.
        """
        if s.layout:
            grads = self.lined_up(s, grads)
            net = self.update(s.layout.joined(s), grads, vars, step=step, updates=updates, average=average)
            return s.layout.apart(jax.lax.optimization_barrier(net))
        change, opt = optax.with_extra_args_support(self.tx).update(grads, s.opt, s.params, step=step)
        net = s.replace(params=optax.apply_updates(s.params, change), opt=opt, vars=s.vars if vars is None else vars)
        return self.follow(net, step=step, updates=updates) if average else net

    def follow(self, s: NetState, *, step: Array, updates: int = 1) -> NetState:
        """The averages moved towards the params, as after an update."""

        def towards(rule: Ema, average: PyTree) -> PyTree:
            share = -jnp.expm1(rule.log_decay(step) / updates)  # 1 - decay
            return jax.tree.map(lambda e, p: e + share * (p - e), average, s.params)

        return s.replace(ema={rule.label: towards(rule, s.ema[rule.label]) for rule in self.ema})
