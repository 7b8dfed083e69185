"""LAPGAN: a GAN for each level of a Laplacian pyramid (Denton et al. 2015, arXiv:1506.05751).

    I_(k+1) = reduce(I_k);  l_k = expand(I_(k+1));  h_k = I_k - l_k                  the pyramid of a real picture
    I~_K = G_K(z_K);  I~_k = l~_k + G_k(z_k, l~_k), l~_k = expand(I~_(k+1))          a picture is made, coarse to fine

D_k judges h_k beside G_k(z_k, l_k), both given the l_k of a real picture: the levels learn apart from each other, all of them
in every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond
from jaxgen.core.method import Batch, Metrics, PerExample
from jaxgen.core.net import Net
from jaxgen.core.ranges import Count
from jaxgen.core.spec import DataSpec, Field, Spec
from jaxgen.core.state import Array, TrainState, Variables, Weights
from jaxgen.errors import UserError
from jaxgen.images import expand, laplacian, to_float, within
from jaxgen.losses.gan import GanLoss, NonSaturating
from jaxgen.methods.gan import Gan

PLAYERS = ("gen", "disc")


@dataclass(frozen=True, kw_only=True)
class Lapgan:
    """`gen` and `disc` stand for the nets of every level but the coarsest, whose detail they make of a plane of noise
    U(-1, 1); `base_gen` and `base_disc` play for the coarsest picture as in `Gan`.
    """

    gen: Net
    disc: Net
    base_gen: Net
    base_disc: Net
    spec: DataSpec
    levels: Count = 2  # halvings to the coarsest picture
    loss: GanLoss = field(default_factory=NonSaturating)
    z_dim: Count = 100  # of the coarsest picture's noise
    prior: str = "uniform"

    makes: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self) -> None:
        height, width = self.spec.shape[-3:-1]
        most = min(height, width).bit_length() - 1
        if self.levels > most:
            raise UserError(
                f"method.levels={self.levels} is too deep for pictures of {height}x{width}; set method.levels={max(most, 1)}"
            )

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every level, finest first."""
        height, width = self.spec.shape[-3:-1]
        return [(-(-height // 2**k), -(-width // 2**k)) for k in range(self.levels + 1)]

    @cached_property
    def games(self) -> dict[str, Gan]:
        """Size in words -> what is played there, finest first: a GAN of details that is told the coarse picture, or the base's."""
        told, channels, found = self.spec.conditions, self.spec.shape[-1], {}
        for k, size in enumerate(self.sizes):
            base, shape = k == self.levels, (*size, channels)
            target = Spec(image=Field(shape, "float32", "latent", "target"))
            coarse = {} if base else {"coarse": Field(shape, "float32", "latent")}
            gen, disc = (self.base_gen, self.base_disc) if base else (self.gen, self.disc)
            found["x".join(map(str, size))] = Gan(
                gen=_shaped(gen, shape), disc=_shaped(disc, shape), spec=Spec(target, **told, **coarse), loss=self.loss,
                z_dim=self.z_dim if base else size[0] * size[1], prior=self.prior if base else "uniform",
            )  # fmt: skip
        return found

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions: what all nets take."""
        detail, *_, base = self.games.values()
        return tuple(kind for kind in detail.takes if kind in base.takes)

    def boards(self, batch: Batch) -> Iterator[tuple[str, Gan, Batch]]:
        """(size, its GAN, what that sees of the batch), finest first."""
        told = {name: batch[name] for name in self.spec.conditions if name in batch}
        octaves, base = laplacian(to_float(batch[self.spec.target]), self.levels)
        seen = [{"image": octave.detail, "coarse": octave.coarse} for octave in octaves] + [{"image": base}]
        for (size, game), pictures in zip(self.games.items(), seen, strict=True):
            yield size, game, {**told, **pictures}

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        state = TrainState(step=jnp.zeros((), jnp.int32), nets={})
        for i, (size, game, seen) in enumerate(self.boards(batch)):
            state = _join(state, size, game.init(jax.random.fold_in(rng, i), seen))
        return state

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """A step of every level's game."""
        after, metrics = state, {}
        for i, (size, game, seen) in enumerate(self.boards(batch)):
            played, found = game.train_step(_part(state, size), seen, jax.random.fold_in(rng, i))
            after, metrics = _join(after, size, played), {**metrics, **{f"{k}_{size}": v for k, v in found.items()}}
        return after, metrics

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """What every game says of held-out images, [B] each."""
        found = {}
        for i, (size, game, seen) in enumerate(self.boards(batch)):
            figures = game.eval_step(_part(w, size), seen, jax.random.fold_in(rng, i))
            found |= {f"{k}_{size}": v for k, v in figures.items()}
        return found

    def settle(self, w: Weights) -> dict[str, Variables]:
        """As every game does."""
        found = {size: game.settle(_part(w, size)) for size, game in self.games.items()}
        return {f"{player}_{size}": vars for size, nets in found.items() for player, vars in nets.items()}

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """The coarsest picture, and to its size doubled the details, [num, H, W, C]."""
        return self.from_latents(w, self.draw_latents(rng, num), cond, rng)

    def draw_latents(self, rng: Array, num: int) -> Array:
        """Those of all levels side by side, the coarsest first, [num, the sum of their z_dim]."""
        games = enumerate(reversed(self.games.values()))
        return jnp.concatenate([game.draw_latents(jax.random.fold_in(rng, i), num) for i, game in games], 1)

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """The pictures of latents."""
        x = None
        for i, ((name, game), size) in enumerate(zip(reversed(self.games.items()), self.sizes[::-1], strict=True)):
            own, z = jnp.split(z, [game.z_dim], 1)
            key = None if rng is None else jax.random.fold_in(jax.random.fold_in(rng, i), 1)
            coarse = {} if x is None else {"coarse": expand(x, size)}
            made = game.from_latents(_part(w, name), own, {**cond, **coarse}, key)
            x = within(made + coarse.get("coarse", 0.0))
        return x


def _shaped(net: Net, shape: tuple[int, ...]) -> Net:
    """The net for pictures of that shape, where it wants to know."""
    return replace(net, module=net.module.clone(shape=shape)) if hasattr(net.module, "shape") else net


def _part(whole: TrainState | Weights, size: str) -> TrainState | Weights:
    """What one game sees of a state or of weights."""
    nets = {player: whole.nets[f"{player}_{size}"] for player in PLAYERS}
    return whole.replace(nets=nets, extra=whole.extra.get(size, {}))


def _join(whole: TrainState, size: str, part: TrainState) -> TrainState:
    """The inverse."""
    nets = {f"{player}_{size}": net for player, net in part.nets.items()}
    extra = {size: part.extra} if part.extra else {}
    return whole.replace(step=part.step, nets={**whole.nets, **nets}, extra={**whole.extra, **extra})
