"""A degradation spoils pictures [B, H, W, C] in [-1, 1] by a strength that is drawn for every example from its range."""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError

Array = jax.Array


class Maps(NamedTuple):
    """A linear degradation: a matrix for rows, columns and channels (None: they stay), and the deviation of noise behind it."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    channels: np.ndarray | None = None
    noise: float = 0.0


class Degradation:
    """A frozen dataclass of options. The field that `strength` names is a number, or a range (low, high) of numbers."""

    strength: ClassVar[str] = ""
    shrinks: ClassVar[int] = 1  # how many times smaller the picture becomes

    def __post_init__(self) -> None:
        span = getattr(self, self.strength, 0.0)
        if isinstance(span, tuple) and (len(span) != 2 or span[0] > span[1]):
            raise UserError(
                f"degradation {called(self)}: {self.strength}={span} is no range; set {self.strength}={min(span, default=0.0)}, or "
                f"{self.strength}=({min(span, default=0.0)}, {max(span, default=1.0)})"
            )

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the range; twice the same for a number."""
        found = getattr(self, self.strength, 0.0)
        return found if isinstance(found, tuple) else (found, found)

    def level(self, rng: Array, num: int) -> Array:
        """How strong it is for each example, [num]."""
        low, high = self.span
        return jnp.full((num,), low) if low == high else jax.random.uniform(rng, (num,), minval=low, maxval=high)

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """What is left of pictures [B, H, W, C], with a level [B] each."""
        raise TypeError(f"{type(self).__name__} must say what it does")

    def maps(self, shape: tuple[int, ...]) -> Maps:
        """It as a linear map of pictures [H, W, C]; a UserError where it is none."""
        raise UserError(f"degradation {called(self)} is not linear; take a restorer that was trained")

    def finish(self, seen: Array, made: Array) -> Array:
        """A picture that was made of what is left, with what is known of it put back."""
        return made


def called(kinds: Any) -> str:
    """The name of a degradation, or of several: gaussian, blur+jpeg."""
    return "+".join(type(one).__name__.lower() for one in (kinds if isinstance(kinds, tuple) else (kinds,)))


def shrinking(kinds: Degradation | tuple[Degradation, ...]) -> int:
    """How many times smaller the picture becomes."""
    return math.prod(one.shrinks for one in (kinds if isinstance(kinds, tuple) else (kinds,)))


def refuse_smaller(kinds: Degradation | tuple[Degradation, ...], where: str) -> None:
    """A UserError unless the picture keeps its size."""
    if shrinking(kinds) > 1:
        raise UserError(
            f"{where}={called(kinds)} makes pictures smaller, which the task degrade alone can use; set {where}=gaussian"
        )


def degraded(
    kinds: Degradation | tuple[Degradation, ...], x: Array, rng: Array, levels_rng: Array | None = None
) -> tuple[Array, Array]:
    """(pictures [B, ..., H, W, C] after one degradation or several in turn, their levels [B, n]).

    The frames of a clip have their example's levels, and noise of their own. levels_rng: a key for the levels alone, so that two
    draws with the same are equally bad.
    """
    levels_rng = jax.random.fold_in(rng, 0) if levels_rng is None else levels_rng
    num, flat, levels = len(x), x.reshape(-1, *x.shape[-3:]), []
    for i, one in enumerate(kinds if isinstance(kinds, tuple) else (kinds,)):
        levels.append(one.level(jax.random.fold_in(levels_rng, i), num))
        flat = one(flat, jnp.repeat(levels[-1], len(flat) // num), jax.random.fold_in(rng, i + 1))
    return flat.reshape(*x.shape[:-3], *flat.shape[1:]), jnp.stack(levels, -1)


def wide(level: Array) -> Array:
    """[B] -> [B, 1, 1, 1]."""
    return level[:, None, None, None]


def bright(x: Array) -> Array:
    """[-1, 1] -> light in [0, 1]."""
    return 0.5 * (x + 1.0)


def dark(x: Array) -> Array:
    """The way back."""
    return 2.0 * x - 1.0
