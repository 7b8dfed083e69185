"""The games generators and discriminators play, as losses of logits: both sides minimise, per example [B].

D(x) = sigmoid(logit) where D is a probability. `real` and `fake` are logits of real and generated images.

    saturating      d: -log D(x) - log(1 - D(G(z)))            g: log(1 - D(G(z)))     (Goodfellow et al. 2014, eq. 1)
    non-saturating  d: the same                                g: -log D(G(z))         (Goodfellow et al. 2014, sec. 3)
    least squares   d: ((D(x) - b)^2 + (D(G(z)) - a)^2) / 2    g: (D(G(z)) - c)^2 / 2  (Mao et al. 2016, eq. 2)
    hinge           d: max(0, 1 - D(x)) + max(0, 1 + D(G(z)))  g: -D(G(z))             (Lim & Ye 2017, eq. 1)
    Wasserstein     d: D(G(z)) - D(x)                          g: -D(G(z))             (Arjovsky et al. 2017, eq. 2)
"""

from dataclasses import dataclass
from typing import Protocol

import jax

from jaxgen.core.ranges import Number

Array = jax.Array


class GanLoss(Protocol):
    """What each player minimises."""

    def gen(self, fake: Array) -> Array:
        """The generator's loss [B]."""

    def disc(self, real: Array, fake: Array) -> Array:
        """The discriminator's loss [B]."""


@dataclass(frozen=True)
class Saturating:
    """The minimax game itself: at the best D the value is 2 JS(data, model) - log 4; weak gradients while D wins."""

    def gen(self, fake: Array) -> Array:
        """log(1 - D(G(z))) = -softplus(logit)."""
        return -jax.nn.softplus(fake)

    def disc(self, real: Array, fake: Array) -> Array:
        """-log D(x) - log(1 - D(G(z)))."""
        return jax.nn.softplus(-real) + jax.nn.softplus(fake)


@dataclass(frozen=True)
class NonSaturating:
    """The same fixed point with strong gradients early on."""

    def gen(self, fake: Array) -> Array:
        """-log D(G(z))."""
        return jax.nn.softplus(-fake)

    def disc(self, real: Array, fake: Array) -> Array:
        """-log D(x) - log(1 - D(G(z)))."""
        return jax.nn.softplus(-real) + jax.nn.softplus(fake)


@dataclass(frozen=True)
class LeastSquares:
    """LSGAN: `a` and `b` code fake and real, `c` is what G wants D to say (0-1 coding, eq. 9 of the paper)."""

    a: Number = 0.0
    b: Number = 1.0
    c: Number = 1.0

    def gen(self, fake: Array) -> Array:
        """(D(G(z)) - c)^2 / 2."""
        return 0.5 * (fake - self.c) ** 2

    def disc(self, real: Array, fake: Array) -> Array:
        """((D(x) - b)^2 + (D(G(z)) - a)^2) / 2."""
        return 0.5 * ((real - self.b) ** 2 + (fake - self.a) ** 2)


@dataclass(frozen=True)
class Hinge:
    """D stops caring beyond the margin."""

    def gen(self, fake: Array) -> Array:
        """-D(G(z))."""
        return -fake

    def disc(self, real: Array, fake: Array) -> Array:
        """max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
        return jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake)


@dataclass(frozen=True)
class Wasserstein:
    """The earth mover's distance by a 1-Lipschitz critic; needs a penalty that keeps it so."""

    def gen(self, fake: Array) -> Array:
        """-D(G(z))."""
        return -fake

    def disc(self, real: Array, fake: Array) -> Array:
        """D(G(z)) - D(x)."""
        return fake - real
