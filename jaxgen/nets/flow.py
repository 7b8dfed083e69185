"""Normalizing flows: bijections of pictures onto independent normals, with the logarithm of their volume.

    RealNVP   Dinh et al. 2016 (arXiv:1605.08803); its couplings' nets as in chrischute/real-nvp
    Glow      Kingma & Dhariwal 2018 (arXiv:1807.03039); openai/glow

A `Bijector` takes x to forward(x) = (y, log |det dy/dx| [B]) and y back to inverse(y) = (x, log |det dx/dy| [B]). Pictures are
[B, H, W, C], everything is float32. What learns the scale of the data from the first batch keeps it in the collection "start".
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Inside, Natural, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import add_vectors, halvings, image_shape
from jaxgen.nets.layers import BatchNorm, Conv, pixel_shuffle, pixel_unshuffle, remat

Array = jax.Array
Moved = tuple[Array, Array]  # what came out, log |det| [B]

zeros, ones = nn.initializers.zeros, nn.initializers.ones


def summed(x: Array) -> Array:
    """Over all but the first axis -> [B]."""
    return x.reshape(len(x), -1).sum(1)


class Bijector(nn.Module):
    """Two functions, each the other's inverse. `number`: its place among the `Steps` of a loop."""

    def forward(self, x: Array, train: bool = False, number: Array | int = 0) -> Moved:
        """Towards the noise."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def inverse(self, y: Array, number: Array | int = 0) -> Moved:
        """Towards the data."""
        raise TypeError(f"{type(self).__name__} must define inverse")

    def __call__(self, x: Array, train: bool = False) -> Moved:
        return self.forward(x, train)


class Shift(Bijector):
    """x + by."""

    by: float

    def forward(self, x: Array, train: bool = False) -> Moved:
        """x + by."""
        return x + self.by, jnp.zeros(len(x))

    def inverse(self, y: Array) -> Moved:
        """y - by."""
        return y - self.by, jnp.zeros(len(y))


class Logit(Bijector):
    """logit(alpha + (1 - 2 alpha) x) of x in [0, 1] (Dinh et al. 2016, section 4.1)."""

    alpha: float = 0.05

    def forward(self, x: Array, train: bool = False) -> Moved:
        """dy/dx = (1 - 2 alpha) / (p (1 - p))."""
        p = self.alpha + (1 - 2 * self.alpha) * x
        high, low = jnp.log(p), jnp.log1p(-p)
        return high - low, summed(math.log(1 - 2 * self.alpha) - high - low)

    def inverse(self, y: Array) -> Moved:
        """x is a little more than [0, 1] for what no picture gives."""
        x = (jax.nn.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)
        return x, summed(jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y) - math.log(1 - 2 * self.alpha))


class Squeeze(Bijector):
    """Four pixels become one of four times the channels."""

    def forward(self, x: Array, train: bool = False) -> Moved:
        """Half the sides."""
        return pixel_unshuffle(x), jnp.zeros(len(x))

    def inverse(self, y: Array) -> Moved:
        """Twice the sides."""
        return pixel_shuffle(y), jnp.zeros(len(y))


class ActNorm(Bijector):
    """(x + bias) exp(logs) by channel, begun so that the first batch has mean 0 and variance 1 (Kingma & Dhariwal, 3.1)."""

    channels: int

    def setup(self) -> None:
        shape = (self.channels,)
        self.bias, self.logs = self.param("bias", zeros, shape), self.param("logs", zeros, shape)
        self.first_bias = self.variable("start", "first_bias", jnp.zeros, shape)
        self.first_logs = self.variable("start", "first_logs", jnp.zeros, shape)

    def forward(self, x: Array, train: bool = False) -> Moved:
        """Also as the norm of a net's layers, which have no volume."""
        if self.is_mutable_collection("start") and not self.is_initializing():
            axes = tuple(range(x.ndim - 1))
            self.first_bias.value = -x.mean(axes)
            self.first_logs.value = -jnp.log(x.std(axes) + 1e-6)
        bias, logs = self.bias + self.first_bias.value, self.logs + self.first_logs.value
        return (x + bias) * jnp.exp(logs), self._logdet(x, logs)

    def inverse(self, y: Array) -> Moved:
        """y exp(-logs) - bias."""
        bias, logs = self.bias + self.first_bias.value, self.logs + self.first_logs.value
        return y * jnp.exp(-logs) - bias, -self._logdet(y, logs)

    def _logdet(self, x: Array, logs: Array) -> Array:
        return jnp.full(len(x), math.prod(x.shape[1:-1]) * logs.sum())


class Plu(NamedTuple):
    """W = P L (U + diag(sign exp(logs))): P takes row order[i] to row i, L has a diagonal of ones, U is zero on it."""

    order: Array  # int32 [C]
    lower: Array  # [C, C]
    upper: Array  # [C, C]
    sign: Array  # [C]
    logs: Array  # [C]


def plu(w: Array) -> Plu:
    """Of a square matrix."""
    p, lower, upper = jax.scipy.linalg.lu(w)
    diagonal = jnp.diag(upper)
    order = p.argmax(1).astype(jnp.int32)
    return Plu(order, jnp.tril(lower, -1), jnp.triu(upper, 1), jnp.sign(diagonal), jnp.log(jnp.abs(diagonal)))


class Mix(Bijector):
    """y = W x at every pixel, W [C, C] a random rotation at first, trained in its LU decomposition (Kingma & Dhariwal, 3.2)."""

    channels: int

    def setup(self) -> None:
        c = self.channels
        w = jnp.eye(c)  # of which flax asks the shape alone, once there are parameters
        if self.is_initializing():
            w = jnp.linalg.qr(jax.random.normal(self.make_rng("params"), (c, c)))[0]
        found = lambda: plu(w)  # noqa: E731
        self.order = self.variable("fixed", "order", lambda: found().order)
        self.sign = self.variable("fixed", "sign", lambda: found().sign)
        self.lower = self.param("lower", lambda _: found().lower)
        self.upper = self.param("upper", lambda _: found().upper)
        self.logs = self.param("logs", lambda _: found().logs)

    def forward(self, x: Array, train: bool = False) -> Moved:
        """One product for all pixels."""
        lower, upper = self._triangles()
        w = jnp.matmul(lower, upper, precision="highest")[self.order.value]
        return self._times(x, w), self._logdet(x)

    def inverse(self, y: Array) -> Moved:
        """Two triangular systems give W's inverse."""
        lower, upper = self._triangles()
        back = jnp.eye(self.channels)[jnp.argsort(self.order.value)]
        back = jax.scipy.linalg.solve_triangular(lower, back, lower=True, unit_diagonal=True)
        return self._times(y, jax.scipy.linalg.solve_triangular(upper, back)), -self._logdet(y)

    def _triangles(self) -> tuple[Array, Array]:
        diagonal = jnp.diag(self.sign.value * jnp.exp(self.logs))
        return jnp.tril(self.lower, -1) + jnp.eye(self.channels), jnp.triu(self.upper, 1) + diagonal

    def _times(self, x: Array, w: Array) -> Array:
        return jnp.matmul(x.reshape(-1, self.channels), w.T, precision="highest").reshape(x.shape)

    def _logdet(self, x: Array) -> Array:
        return jnp.full(len(x), math.prod(x.shape[1:-1]) * self.logs.sum())


class ZeroConv(nn.Module):
    """A 3x3 convolution that begins at zero, times exp(3 logs) by channel: [B, H, W, C] -> [B, H, W, features]."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.features, 3, kernel_init=zeros)(x)
        return x * jnp.exp(3.0 * self.param("logs", zeros, (self.features,)))


class GlowNet(nn.Module):
    """What a coupling's unmoved half says of the other: 3x3, 1x1 and a 3x3 that begins at zero."""

    width: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in (3, 1):
            x = Conv(self.width, size, use_bias=False, kernel_init=nn.initializers.normal(0.05))(x)
            x = nn.relu(ActNorm(self.width)(x)[0])
        return ZeroConv(self.features)(x)


class AffineCoupling(Bijector):
    """The second half of the channels becomes (b + shift) sigmoid(scale + 2), both said by the first (Kingma & Dhariwal, 3.3)."""

    channels: int
    width: int

    def setup(self) -> None:
        self.net = GlowNet(self.width, 2 * (self.channels - self.channels // 2))

    def forward(self, x: Array, train: bool = False) -> Moved:
        """The first half stays."""
        a, b = jnp.split(x, [self.channels // 2], -1)
        shift, logs = self._numbers(a)
        return jnp.concatenate([a, (b + shift) * jnp.exp(logs)], -1), summed(logs)

    def inverse(self, y: Array) -> Moved:
        """The same numbers, since the first half is the same."""
        a, b = jnp.split(y, [self.channels // 2], -1)
        shift, logs = self._numbers(a)
        return jnp.concatenate([a, b * jnp.exp(-logs) - shift], -1), -summed(logs)

    def _numbers(self, a: Array) -> tuple[Array, Array]:
        shift, scale = jnp.split(self.net(a), 2, -1)
        return shift, jax.nn.log_sigmoid(scale + 2.0)


class GlowStep(Bijector):
    """Actnorm, a mixing of channels, an affine coupling."""

    channels: int
    width: int

    def setup(self) -> None:
        self.norm, self.mix = ActNorm(self.channels), Mix(self.channels)
        self.coupling = AffineCoupling(self.channels, self.width)

    def forward(self, x: Array, train: bool = False, number: Array | int = 0) -> Moved:
        """In that order."""
        return _through(x, (part.forward for part in (self.norm, self.mix, self.coupling)))

    def inverse(self, y: Array, number: Array | int = 0) -> Moved:
        """Backwards."""
        return _through(y, (part.inverse for part in (self.coupling, self.mix, self.norm)))


def _through(x: Array, functions: Any) -> Moved:
    total = jnp.zeros(len(x))
    for function in functions:
        x, logdet = function(x)
        total += logdet
    return x, total


class Steps(Bijector):
    """`depth` bijectors of one kind as one loop, whose parameters are stacked along the first axis; each is told its number."""

    depth: int
    kind: Callable[[], Bijector]
    remat: Remat = False
    unroll: int = 1

    def setup(self) -> None:
        self.step = self.kind()

    def forward(self, x: Array, train: bool = False) -> Moved:
        """From the first step to the last."""
        return self._loop(x, lambda step, x, number: step.forward(x, train, number))

    def inverse(self, y: Array) -> Moved:
        """From the last to the first."""
        return self._loop(y, lambda step, y, number: step.inverse(y, number), reverse=True)

    def _loop(self, x: Array, function: Callable[[Bijector, Array, Array], Moved], **options: Any) -> Moved:
        def body(step: Bijector, carry: Moved, number: Array) -> tuple[Moved, None]:
            x, logdet = function(step, carry[0], number)
            return (x, carry[1] + logdet), None

        axes = dict.fromkeys(("params", "start", "fixed", "batch_stats"), 0)
        options |= dict(length=self.depth, unroll=self.unroll, split_rngs={"params": True})
        loop = nn.scan(remat(body, self.remat), variable_axes=axes, **options)
        return loop(self.step, (x, jnp.zeros(len(x))), jnp.arange(self.depth))[0]


class RunningNorm(Bijector):
    """Batch norm by running moments, to which the batch at hand adds its share: its volume is known (Dinh et al., 3.7, app. E)."""

    channels: int
    momentum: float = 0.1
    eps: float = 1e-5

    def setup(self) -> None:
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.channels,))
        self.var = self.variable("batch_stats", "var", jnp.ones, (self.channels,))

    def forward(self, x: Array, train: bool = False) -> Moved:
        """(x - mean) / sqrt(var + eps); gradients pass through the batch's share of both."""
        mean, var = self.mean.value, self.var.value
        if train and not self.is_initializing():
            axes = tuple(range(x.ndim - 1))
            mean, var = mean + self.momentum * (x.mean(axes) - mean), var + self.momentum * (x.var(axes) - var)
            self.mean.value, self.var.value = mean, var
        logs = -0.5 * jnp.log(var + self.eps)
        return (x - mean) * jnp.exp(logs), self._logdet(x, logs)

    def inverse(self, y: Array) -> Moved:
        """By the running moments."""
        logs = -0.5 * jnp.log(self.var.value + self.eps)
        return y * jnp.exp(-logs) + self.mean.value, -self._logdet(y, logs)

    def _logdet(self, x: Array, logs: Array) -> Array:
        return jnp.full(len(x), math.prod(x.shape[1:-1]) * logs.sum())


def normed_conv(features: int, size: int, bias: bool = True) -> Conv:
    """With weight norm."""
    return Conv(features, size, use_bias=bias, weight_norm=True)


class CouplingBlock(nn.Module):
    """(x, total) -> x + conv(conv(x)), and the sum with what a 1x1 convolution makes of that."""

    width: int
    train: bool

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], _: None = None) -> tuple[tuple[Array, Array], None]:
        x, total = carry
        h = x
        for bias in (False, True):
            h = normed_conv(self.width, 3, bias)(nn.relu(BatchNorm()(h, self.train)))
        x = x + h
        return (x, total + normed_conv(self.width, 1)(x)), None


class CouplingNet(nn.Module):
    """RealNVP's residual net: its blocks are one loop, and of the sum of what they say come the numbers."""

    width: int
    blocks: int
    features: int
    unroll: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = normed_conv(self.width, 3)(x)
        total = normed_conv(self.width, 1)(x)
        if self.blocks:
            loop = nn.scan(
                CouplingBlock,
                {"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=self.blocks,
                unroll=self.unroll,
            )
            (_, total), _ = loop(self.width, train, name="blocks")((x, total), None)
        return normed_conv(self.features, 1)(nn.relu(BatchNorm()(total, train)))


class MaskedCoupling(Bijector):
    """Half of the numbers become (x + shift) exp(scale), both said by the other half, then a `RunningNorm` of all.

    The halves are the squares of a checkerboard, or channels; an odd `number` moves the half that an even one does not.
    scale = rescale tanh(.), rescale learned by channel.
    """

    channels: int
    width: int
    blocks: int
    checkerboard: bool
    unroll: int = 1

    def setup(self) -> None:
        moved = self.channels if self.checkerboard else self.channels // 2
        self.entry, self.net = BatchNorm(), CouplingNet(self.width, self.blocks, 2 * moved, self.unroll)
        self.rescale = self.param("rescale", ones, (moved,))
        self.norm = RunningNorm(self.channels)

    def forward(self, x: Array, train: bool = False, number: Array | int = 0) -> Moved:
        """The other half stays until the norm."""
        shift, scale = self._numbers(x, train, number)
        y, logdet = self.norm.forward((x + shift) * jnp.exp(scale), train)
        return y, logdet + summed(scale)

    def inverse(self, y: Array, number: Array | int = 0) -> Moved:
        """The same numbers, since the half that says them is the same."""
        x, logdet = self.norm.inverse(y)
        shift, scale = self._numbers(x, False, number)
        return x * jnp.exp(-scale) - shift, logdet - summed(scale)

    def _numbers(self, x: Array, train: bool, number: Array | int) -> tuple[Array, Array]:
        """Shift and scale, zero where x stays."""
        odd = number % 2 == 1
        if self.checkerboard:
            places = np.add.outer(np.arange(x.shape[1]), np.arange(x.shape[2]))[..., None]
            stays = places % 2 == odd
            h = 2.0 * self.entry(jnp.where(stays, x, 0.0), train) * stays
            plane = jnp.broadcast_to(stays, (len(x), *stays.shape)).astype(x.dtype)
        else:
            first, second = jnp.split(x, 2, -1)
            h = 2.0 * self.entry(jnp.where(odd, second, first), train)
            plane = h[..., :0]
        shift, scale = jnp.split(self.net(nn.relu(jnp.concatenate([h, -h, plane], -1)), train), 2, -1)
        both = (shift, self.rescale * jnp.tanh(scale))
        if self.checkerboard:
            return tuple(jnp.where(stays, 0.0, part) for part in both)
        return tuple(jnp.concatenate([jnp.where(odd, part, 0.0), jnp.where(odd, 0.0, part)], -1) for part in both)


class SplitPrior(Bijector):
    """What leaves at a split, as normals whose mean and scale what stays says: called with both."""

    features: int

    def setup(self) -> None:
        self.net = ZeroConv(2 * self.features)

    def forward(self, x: Array, stays: Array) -> Moved:
        """(x - mean) exp(-logs)."""
        mean, logs = self._numbers(stays)
        return (x - mean) * jnp.exp(-logs), -summed(logs)

    def inverse(self, y: Array, stays: Array) -> Moved:
        """y exp(logs) + mean."""
        mean, logs = self._numbers(stays)
        return y * jnp.exp(logs) + mean, summed(logs)

    def _numbers(self, stays: Array) -> tuple[Array, Array]:
        mean, logs = jnp.split(self.net(stays), 2, -1)
        return mean, logs


class Top(nn.Module):
    """Mean and log of the scale of what is left at the end, by channel: learned if asked for, and by label if there is one."""

    features: int
    conditions: Spec
    learned: bool

    @nn.compact
    def __call__(self, num: int, cond: Cond | None) -> tuple[Array, Array]:
        h = jnp.zeros((num, 2 * self.features))
        h = add_vectors(h, self.conditions, cond, True, zeros, zeros)
        if self.learned:
            h += self.param("bias", zeros, (2 * self.features,)) * jnp.exp(
                3.0 * self.param("logs", zeros, (2 * self.features,))
            )
        mean, logs = jnp.split(h[:, None, None], 2, -1)
        return mean, logs


class MultiScale(nn.Module):
    """Levels of bijectors; between two of them half of the channels leaves and is noise already.

    forward(x [B, H, W, C] in [0, 1], cond, train) -> (z [B, H W C], log |det| [B]), where z is N(0, I) if x is as the data.
    """

    takes: ClassVar[tuple[str, ...]] = ("label",)

    def numbers(self, num: int, cond: Cond | None, like: Array) -> tuple[Array, Array]:
        """Mean and logs of the last level's output."""
        mean, logs = self.top(num, cond)
        return mean, jnp.broadcast_to(logs, like.shape)

    def forward(self, x: Array, cond: Cond | None = None, train: bool = False) -> Moved:
        """Pictures -> noise."""
        z, volumes = self.volumes(x, cond, train)
        return z, sum(volumes.values())

    def volumes(self, x: Array, cond: Cond | None = None, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Pictures -> noise, and log |det| [B] by layer, whose name has its level and its place there, so that names sort."""
        found, left = {}, []
        x, found["0_entry"] = self.entry.forward(x)
        for i, stage in enumerate(self.stages):
            for j, part in enumerate(stage):
                x, logdet = part.forward(x, train)
                if not isinstance(part, Squeeze):
                    found[f"{i + 1}_{j}_{type(part).__name__.lower()}"] = logdet
            if i < len(self.priors):
                x, gone = self.halves(x)
                if self.priors[i]:
                    gone, found[f"{i + 1}_{len(stage)}_split"] = self.priors[i].forward(gone, x)
                left.append(gone)
        mean, logs = self.numbers(len(x), cond, x)
        found[f"{len(self.stages) + 1}_top"] = -summed(logs)
        left.append((x - mean) * jnp.exp(-logs))
        return jnp.concatenate([part.reshape(len(x), -1) for part in left], 1), found

    def inverse(self, z: Array, cond: Cond | None = None, train: bool = False) -> Moved:
        """Noise [B, H W C] -> pictures."""
        sizes = self.sizes()
        ends = np.cumsum([math.prod(size) for size in sizes])[:-1]
        *left, x = (part.reshape(-1, *size) for part, size in zip(jnp.split(z, ends, 1), sizes, strict=True))
        mean, logs = self.numbers(len(x), cond, x)
        x, total = x * jnp.exp(logs) + mean, summed(logs)
        for i in reversed(range(len(self.stages))):
            if i < len(self.priors):
                gone = left[i]
                if self.priors[i]:
                    gone, logdet = self.priors[i].inverse(gone, x)
                    total += logdet
                x = self.joined(x, gone)
            for part in reversed(self.stages[i]):
                x, logdet = part.inverse(x)
                total += logdet
        x, logdet = self.entry.inverse(x)
        return x, total + logdet

    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Moved:
        return self.forward(x, cond, train)

    def sizes(self) -> list[tuple[int, int, int]]:
        """[H, W, C] of what leaves at every split, and of the rest."""
        (h, w, c), splits = self.shape, len(self.priors)
        left = [(h >> i, w >> i, c << i) for i in range(1, splits + 1)]
        return [*left, self.rest(h >> splits, w >> splits, c << splits)]

    def halves(self, x: Array) -> tuple[Array, Array]:
        """What stays and what leaves."""
        return tuple(jnp.split(x, 2, -1))

    def joined(self, stays: Array, gone: Array) -> Array:
        """The inverse of `halves`."""
        return jnp.concatenate([stays, gone], -1)

    def refuse_sizes(self, squeezes: int, key: str, more: int) -> None:
        """A UserError where the pictures cannot be halved so often."""
        height, width, _ = image_shape(self.shape, self)
        most = min(halvings(height), halvings(width))
        if squeezes > most:
            cure = (
                f"set method.net.{key}={most + more}"
                if most + more
                else "choose another size of the data, or another net"
            )
            raise UserError(
                f"{type(self).__name__} halves pictures {squeezes} times, and {height}x{width} can be halved {most} times; {cure}"
            )


class RealNvp(MultiScale):
    """RealNVP: at every scale 3 checkerboard couplings, a squeeze and 3 of channels; at the last 4 checkerboard couplings."""

    shape: TargetShape = (32, 32, 3)
    conditions: Conditions = Spec()
    scales: Count = 2  # squeezes + 1
    width: Count = 64  # of the couplings' nets at the first scale, twice as many at the next
    blocks: Natural = 8  # residual blocks of a coupling
    alpha: Inside = 0.05  # of the logit
    remat: Remat = False
    unroll: Count = 1  # couplings, and blocks, of a loop that are written out: 4 is faster on a CPU and compiles longer

    def setup(self) -> None:
        self.refuse_sizes(self.scales - 1, "scales", 1)
        self.entry = Logit(self.alpha)
        c, width, stages = self.shape[-1], self.width, []
        for _ in range(self.scales - 1):
            stage = [self._couplings(3, c, width, True), Squeeze(), self._couplings(3, 4 * c, 2 * width, False)]
            stages.append(stage)
            c, width = 2 * c, 2 * width
        stages.append([self._couplings(4, c, width, True)])
        self.stages, self.priors = stages, [None] * (self.scales - 1)
        self.top = Top(c, self.conditions, False)

    def _couplings(self, depth: int, channels: int, width: int, checkerboard: bool) -> Steps:
        return Steps(
            depth,
            partial(MaskedCoupling, channels, width, self.blocks, checkerboard, self.unroll),
            self.remat,
            self.unroll,
        )

    def rest(self, h: int, w: int, c: int) -> tuple[int, int, int]:
        """The last scale squeezes nothing."""
        return h, w, c

    def halves(self, x: Array) -> tuple[Array, Array]:
        """Of four pixels those on the diagonal stay."""
        four = x.reshape(*x.shape[:-1], -1, 4)
        pick = lambda i, j: jnp.concatenate([four[..., i], four[..., j]], -1)  # noqa: E731
        return pick(0, 3), pick(1, 2)

    def joined(self, stays: Array, gone: Array) -> Array:
        """The four in their places."""
        (first, last), (second, third) = jnp.split(stays, 2, -1), jnp.split(gone, 2, -1)
        return jnp.stack([first, second, third, last], -1).reshape(*stays.shape[:-1], -1)


class Glow(MultiScale):
    """Glow: at every level a squeeze and steps of actnorm, 1x1 mixing and affine coupling; learned normals at splits and top."""

    shape: TargetShape = (32, 32, 3)
    conditions: Conditions = Spec()
    levels: Count = 3
    depth: Count = 32  # steps of a level
    width: Count = 512  # of the couplings' nets
    learn_top: bool = True  # of the last normals
    remat: Remat = "cheap"  # also the fastest on a CPU: less goes from loop to loop

    def setup(self) -> None:
        self.refuse_sizes(self.levels, "levels", 0)
        self.entry = Shift(-0.5)
        c, stages, priors = self.shape[-1], [], []
        for i in range(self.levels):
            c *= 4
            stages.append([Squeeze(), Steps(self.depth, partial(GlowStep, c, self.width), self.remat)])
            if i < self.levels - 1:
                c //= 2
                priors.append(SplitPrior(c))
        self.stages, self.priors = stages, priors
        self.top = Top(c, self.conditions, self.learn_top)

    def rest(self, h: int, w: int, c: int) -> tuple[int, int, int]:
        """After the last level's squeeze."""
        return h // 2, w // 2, 4 * c
