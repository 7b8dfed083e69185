"""A Net: a Flax module, the optimizer that trains it and the average kept of it."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.state import Array, NetState, PyTree, Variables


class Ema(Protocol):
    """An averaging rule: ema <- decay(step) * ema + (1 - decay(step)) * params, after every update."""

    def decay(self, step: Array) -> Array | float:
        """Decay in [0, 1] of the update made at `step` (0 for the first)."""


@dataclass(frozen=True)
class NoEma:
    """Keep no average."""

    def decay(self, step: Array) -> float:
        """0: the average would be the weights themselves."""
        return 0.0


@dataclass(frozen=True)
class Decay:
    """Constant decay; with `warmup` min(rate, (1 + t) / (10 + t)), so that short runs forget their random start."""

    rate: float = 0.9999
    warmup: bool = True

    def decay(self, step: Array) -> Array | float:
        """`rate`, approached from 0.1 during the first 10 / (1 - rate) steps."""
        return jnp.minimum(self.rate, (1.0 + step) / (10.0 + step)) if self.warmup else self.rate


@dataclass(frozen=True)
class HalfLife:
    """Half-life in images, at most `rampup` times the images seen so far (Karras et al. 2022, EDM)."""

    images: float = 500_000.0
    rampup: float = 0.05
    batch: int = 1  # images per step; given by the run

    def decay(self, step: Array) -> Array:
        """0.5 ** (batch / half-life)."""
        seen = (step + 1.0) * self.batch
        halflife = jnp.minimum(self.images, seen * self.rampup) if self.rampup > 0 else self.images
        return 0.5 ** (self.batch / jnp.maximum(halflife, 1e-8))


@dataclass(frozen=True)
class Power:
    """Power-function profile of relative width `std` (Karras et al. 2023, EDM2, eq. 2): (1 - 1/t) ** (gamma + 1)."""

    std: float = 0.1

    @property
    def gamma(self) -> float:
        """Exponent whose profile has relative standard deviation `std`: (g+1)^0.5 (g+2)^-1 (g+3)^-0.5 = std."""
        low, high = 0.0, 1e4
        for _ in range(200):  # the left side falls monotonically in g
            mid = 0.5 * (low + high)
            wide = (mid + 1) ** 0.5 / (mid + 2) / (mid + 3) ** 0.5 > self.std
            low, high = (mid, high) if wide else (low, mid)
        return low

    def decay(self, step: Array) -> Array:
        """(1 - 1/t) ** (gamma + 1) with t = step + 1."""
        return (1.0 - 1.0 / (step + 1.0)) ** (self.gamma + 1.0)


@dataclass(frozen=True)
class Net:
    """Module + optimizer + average. All functions are pure; the state lives in NetState."""

    module: nn.Module
    tx: optax.GradientTransformation
    ema: Ema = field(default_factory=NoEma)

    def init(self, rng: Array, *args: Any, **kwargs: Any) -> NetState:
        """Random variables for inputs shaped like `args`; the average starts at the params."""
        variables = dict(self.module.init({"params": rng, "dropout": rng}, *args, **kwargs))
        params = variables.pop("params", {})
        ema = {} if isinstance(self.ema, NoEma) else jax.tree.map(jnp.copy, params)
        return NetState(params=params, opt=self.tx.init(params), vars=variables, ema=ema)

    def apply(
        self,
        params: PyTree,
        vars: Variables,
        *args: Any,
        train: bool = False,
        rngs: dict[str, Array] | None = None,
        method: str | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Variables]:
        """Run the module -> (output, vars). `vars` come back changed only with train=True."""
        variables = {"params": params, **vars}
        if not train:
            return self.module.apply(variables, *args, train=False, rngs=rngs, method=method, **kwargs), vars
        out, new = self.module.apply(
            variables, *args, train=True, rngs=rngs, method=method, mutable=list(vars), **kwargs
        )
        return out, {**vars, **new}

    def update(self, s: NetState, grads: PyTree, vars: Variables | None = None, *, step: Array) -> NetState:
        """One optimizer step, then the average; `vars` replaces the other collections when given."""
        updates, opt = optax.with_extra_args_support(self.tx).update(grads, s.opt, s.params, step=step)
        params = optax.apply_updates(s.params, updates)
        decay = self.ema.decay(step)
        ema = (
            s.ema
            if isinstance(self.ema, NoEma)
            else jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), s.ema, params)
        )
        return NetState(params=params, opt=opt, vars=s.vars if vars is None else vars, ema=ema)
