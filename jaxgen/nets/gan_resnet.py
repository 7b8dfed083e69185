"""Residual generators and discriminators of GANs: one pair, whose fields tell the papers apart.

    paper                                       G                                     D
    WGAN-GP (Gulrajani et al. 2017, app. C)     width 128                             width 128
    SNGAN (Miyato et al. 2018, table 4)         width 256                             width 128, spectral, pool=sum
    SAGAN (Zhang et al. 2018)                   spectral, attend=(16,)                the same
    BigGAN (Brock et al. 2018, app. B)          the same, shared=128, hierarchical    the same, kernels=orthogonal

A label scales and shifts the norms of G; D answers it by projection (Miyato & Koyama 2018, arXiv:1802.05637) or reads it itself
(AC-GAN, Odena et al. 2016, arXiv:1610.09585). As in `gan`, labels have no null, and images of any size work.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision
from jaxgen.core.spec import Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape
from jaxgen.nets.convolution import upsample2x
from jaxgen.nets.gan import Judged, Norm, Player, glorot_uniform, he_uniform, mean_pool2x, pyramid
from jaxgen.nets.layers import Conv, Dense, Initializer, UpConv, dcgan_init
from jaxgen.nets.pool import max_pool

Array = jax.Array

Init = Literal["glorot", "normal", "orthogonal"]
INITS: dict[str, tuple[Initializer, Initializer]] = {  # of kernels before an activation, and of others
    "glorot": (he_uniform, glorot_uniform),
    "normal": (dcgan_init, dcgan_init),
    "orthogonal": (nn.initializers.orthogonal(),) * 2,
}


class Attention(nn.Module):
    """x + gamma o(softmax(q(x) k(x)^T) v(x)), [B, H, W, C] -> the same; gamma is one number that starts at 0.

    q and k have C / 8 channels, v has C / 2, and keys and values are the maxima of 2x2 pixels (Zhang et al. 2018, section 3).
    """

    dtype: Precision = "float32"
    kernel_init: Initializer = glorot_uniform
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        options = dict(use_bias=False, dtype=self.dtype, kernel_init=self.kernel_init, spectral=self.spectral)
        make = lambda features, name: Conv(features, 1, name=name, **options)  # noqa: E731
        few, some = max(c // 8, 1), max(c // 2, 1)
        q = make(few, "query")(x).reshape(b, h * w, few)
        k = max_pool(make(few, "key")(x), 2, 2).reshape(b, -1, few)
        v = max_pool(make(some, "value")(x), 2, 2).reshape(b, -1, some)
        shares = nn.softmax((q @ k.swapaxes(1, 2)).astype(jnp.float32))
        seen = (shares.astype(v.dtype) @ v).reshape(b, h, w, some)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * make(c, "out")(seen)


def refuse_heights(attend: Sequence[int], heights: Sequence[int], net: nn.Module) -> None:
    """A UserError where a net is to attend at a height that none of its blocks ends at."""
    if odd := [height for height in attend if height not in heights]:
        near = min(heights, key=lambda height: abs(height - odd[0]), default=0)
        cure = f"set attend={(near,)}" if near else "set attend=()"
        raise UserError(f"{type(net).__name__} has no block that ends at a height of {odd[0]}: {list(heights)}; {cure}")


class ResnetGenerator(Player):
    """z [B, Z] -> [B, H, W, C]: a block of `width` channels for every doubling from the coarsest grid, not below `base`.

    attend: heights of the grids at which it attends. shared: width of one table of labels, from which every norm has its scale
    and shift; 0 = a table for every norm. hierarchical: z is cut into a part for the coarsest grid and one for each block, which
    scales and shifts its norms too. A UserError for a height at which no block ends, and for a z with fewer numbers than parts.
    """

    shape: TargetShape = (32, 32, 3)
    width: Count = 128
    base: Count = 4
    norm: str = "batch"
    spectral: bool = False
    attend: tuple[Count, ...] = ()
    shared: Natural = 0
    hierarchical: bool = False
    kernels: Init = "glorot"  # how they start
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, cond: Cond | None = None, train: bool = False) -> Array:
        (height, width), doublings = pyramid(image_shape(self.shape, self), self.base)
        refuse_heights(self.attend, [height << i for i in range(1, doublings + 1)], self)
        inner, outer = INITS[self.kernels]
        options = dict(dtype=self.dtype, spectral=self.spectral)
        if self.hierarchical and z.shape[1] <= doublings:
            raise UserError(
                f"hierarchical cuts z into {doublings + 1} parts, and z_dim={z.shape[1]} is less; set z_dim={doublings + 1}"
            )
        first, *parts = jnp.array_split(z, doublings + 1, axis=1) if self.hierarchical else [z] * (doublings + 1)
        told = self.rows(cond, len(z), nn.initializers.normal(), self.shared) if self.shared else []

        x = Dense(height * width * self.width, kernel_init=outer, **options)(first)
        x = x.reshape(-1, height, width, self.width)
        for part in parts:
            style = [*told, part] if self.hierarchical else told
            norm = self._norm(self.conditions, cond, train, jnp.concatenate(style, -1) if style else None)
            h = UpConv(self.width, use_bias=self.norm == "none", kernel_init=inner, **options)(nn.relu(norm(x)))
            h = Conv(self.width, kernel_init=inner, **options)(nn.relu(norm(h)))
            # A 1x1 convolution and nearest-neighbour doubling commute: convolve where it is cheap.
            x = h + upsample2x(Conv(self.width, 1, kernel_init=outer, **options)(x))
            if x.shape[1] in self.attend:
                x = Attention(kernel_init=outer, **options)(x)
        # The last norm is told no label, but where it is the only one.
        norm = self._norm(*((Spec(), {}, train) if parts else (self.conditions, cond, train)))
        x = Conv(self.shape[-1], kernel_init=outer, **options)(nn.relu(norm(x)))
        return jnp.tanh(x.astype(jnp.float32))

    def _norm(self, conditions: Spec, cond: Cond | None, train: bool, style: Array | None = None) -> Any:
        """A new norm whenever it is called."""
        options = dict(dtype=self.dtype, spectral=self.spectral, style_init=INITS[self.kernels][1])
        return lambda x: Norm(conditions, kind=self.norm, **options)(x, cond, train, style)


class ResnetDiscriminator(Player):
    """[B, H, W, C] -> logits [B]: `downs` halving and `plain` more residual blocks, a pool over all positions, linear.

    labels: "projection" adds the inner product of the features and a row of a table; "classes" leaves them out and says in
    `Judged` which it reads. attend: heights of the grids at which it attends, after a halving. A UserError for a height at which
    no halving ends, and for "classes" of a run that is told no labels.
    """

    width: Count = 128
    downs: Count = 2
    plain: Natural = 2
    norm: str = "none"  # layer or none: penalties of the slope are per example
    spectral: bool = False
    attend: tuple[Count, ...] = ()
    labels: Literal["projection", "classes"] = "projection"
    pool: Literal["mean", "sum"] = "mean"
    kernels: Init = "glorot"  # how they start
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array | Judged:
        height, _, _ = image_shape(x.shape[1:], self)
        refuse_heights(self.attend, [height >> i for i in range(1, self.downs + 1)], self)
        told = sorted(self.conditions.of("label").items())
        if self.labels == "classes" and not told:
            raise UserError(
                "disc.labels='classes' says which label an image has, and the run is told none; set data.labels=True, or set "
                "disc.labels=projection"
            )
        inner, outer = INITS[self.kernels]
        options = dict(dtype=self.dtype, spectral=self.spectral)
        conv = partial(Conv, self.width, kernel_init=inner, **options)
        shortcut = partial(Conv, self.width, 1, kernel_init=outer, **options)

        for i in range(self.downs + self.plain):
            h = x if i == 0 else nn.relu(Norm(kind=self.norm, dtype=self.dtype)(x, cond, train))
            h = conv()(h)
            h = h if i == 0 else Norm(kind=self.norm, dtype=self.dtype)(h, cond, train)
            h = conv()(nn.relu(h))
            if i < self.downs:  # pooling and a 1x1 convolution commute too
                h, x = mean_pool2x(h), shortcut()(mean_pool2x(x))
            x = x + h
            if i < self.downs and x.shape[1] in self.attend:
                x = Attention(kernel_init=outer, **options)(x)
        x = nn.relu(x).astype(jnp.float32)
        x = x.sum((1, 2)) if self.pool == "sum" else x.mean((1, 2))
        dense = partial(Dense, kernel_init=outer, spectral=self.spectral)
        logit = dense(1)(x)[:, 0]
        if self.labels == "classes":
            return Judged(logit, {name: dense(field.values, name=name)(x) for name, field in told})
        projections = self.rows(cond, len(x), outer, self.width, self.spectral)
        return sum(((row * x).sum(-1) for row in projections), logit)
