"""The games generators and discriminators play, as losses of logits: both sides minimise, per logit.

D(x) = sigmoid(logit) where D is a probability; r and f are the logits of real and generated images, F the softplus.

    saturating      d: -log D(x) - log(1 - D(G(z)))            g: log(1 - D(G(z)))     (Goodfellow et al. 2014, eq. 1)
    non-saturating  d: the same                                g: -log D(G(z))         (Goodfellow et al. 2014, sec. 3)
    least squares   d: ((D(x) - b)^2 + (D(G(z)) - a)^2) / 2    g: (D(G(z)) - c)^2 / 2  (Mao et al. 2016, eq. 2)
    hinge           d: max(0, 1 - D(x)) + max(0, 1 + D(G(z)))  g: -D(G(z))             (Lim & Ye 2017, eq. 1)
    Wasserstein     d: D(G(z)) - D(x)                          g: -D(G(z))             (Arjovsky et al. 2017, eq. 2)
    relativistic    d: F(f - r)                                g: F(r - f)             (Jolicoeur-Martineau 2018, sec. 3)
      average       d: F(E f - r) + F(f - E r)                 g: F(r - E f) + F(E r - f)                    (sec. 4)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Number

Array = jax.Array


class GanLoss(ABC):
    """What each player minimises; logits [B], or [B, h, w] of a D that judges patches."""

    relative: ClassVar[bool] = False  # whether G's loss looks at the logits of real images

    @property
    def middle(self) -> float | None:
        """The logit that says neither real nor generated; None where differences alone say something."""
        return None if self.relative else 0.0

    @abstractmethod
    def gen(self, fake: Array, real: Array) -> Array:
        """The generator's loss, shaped like the logits; where the game is not `relative`, `real` is not looked at."""

    @abstractmethod
    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """The discriminator's losses (by real, by generated images), shaped like the logits; it minimises their sum."""

    def disc(self, real: Array, fake: Array) -> Array:
        """The discriminator's loss."""
        by_real, by_fake = self.parts(real, fake)
        return by_real + by_fake


@dataclass(frozen=True)
class NonSaturating(GanLoss):
    """The fixed point of the minimax game with strong gradients early on."""

    def gen(self, fake: Array, real: Array) -> Array:
        """-log D(G(z))."""
        return jax.nn.softplus(-fake)

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """-log D(x), -log(1 - D(G(z)))."""
        return jax.nn.softplus(-real), jax.nn.softplus(fake)


@dataclass(frozen=True)
class Saturating(NonSaturating):
    """The minimax game itself: at the best D the value is 2 JS(data, model) - log 4; weak gradients while D wins."""

    def gen(self, fake: Array, real: Array) -> Array:
        """log(1 - D(G(z))) = -softplus(logit)."""
        return -jax.nn.softplus(fake)


@dataclass(frozen=True)
class LeastSquares(GanLoss):
    """LSGAN: `a` and `b` code fake and real, `c` is what G wants D to say (0-1 coding, eq. 9 of the paper)."""

    a: Number = 0.0
    b: Number = 1.0
    c: Number = 1.0

    @property
    def middle(self) -> float:
        """Half way between the codes."""
        return 0.5 * (self.a + self.b)

    def gen(self, fake: Array, real: Array) -> Array:
        """(D(G(z)) - c)^2 / 2."""
        return 0.5 * (fake - self.c) ** 2

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """(D(x) - b)^2 / 2, (D(G(z)) - a)^2 / 2."""
        return 0.5 * (real - self.b) ** 2, 0.5 * (fake - self.a) ** 2


@dataclass(frozen=True)
class Hinge(GanLoss):
    """D stops caring beyond the margin."""

    def gen(self, fake: Array, real: Array) -> Array:
        """-D(G(z))."""
        return -fake

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """max(0, 1 - D(x)), max(0, 1 + D(G(z)))."""
        return jax.nn.relu(1.0 - real), jax.nn.relu(1.0 + fake)


@dataclass(frozen=True)
class Wasserstein(GanLoss):
    """The earth mover's distance by a 1-Lipschitz critic; needs a penalty or a bound on weights that keeps it so."""

    @property
    def middle(self) -> None:
        """A critic is known up to a constant."""
        return None

    def gen(self, fake: Array, real: Array) -> Array:
        """-D(G(z))."""
        return -fake

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """-D(x), D(G(z))."""
        return -real, fake


@dataclass(frozen=True)
class Relativistic(GanLoss):
    """D says how much more real an image looks than one of the other kind; every generated image is paired with a real one."""

    relative: ClassVar[bool] = True

    def gen(self, fake: Array, real: Array) -> Array:
        """F(r - f)."""
        return jax.nn.softplus(real - fake)

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """F(f - r), half of it by each."""
        half = 0.5 * jax.nn.softplus(fake - real)
        return half, half


@dataclass(frozen=True)
class RelativisticAverage(GanLoss):
    """D says how much more real an image looks than the average one of the other kind."""

    relative: ClassVar[bool] = True

    def gen(self, fake: Array, real: Array) -> Array:
        """F(r - E f) + F(E r - f)."""
        return jax.nn.softplus(real - jnp.mean(fake)) + jax.nn.softplus(jnp.mean(real) - fake)

    def parts(self, real: Array, fake: Array) -> tuple[Array, Array]:
        """F(E f - r), F(f - E r)."""
        return jax.nn.softplus(jnp.mean(fake) - real), jax.nn.softplus(fake - jnp.mean(real))
