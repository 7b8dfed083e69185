"""Augmentations on the device, inside the training step: a pure function of the step's key, so exactly resumable.

One draw for every example moves all that has places alike: its picture or clip (every frame), masks, pictures it is told.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.lender import Frozen
from jaxgen.core.ranges import Count, Natural, NonNegative, Share
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Batch, Task, is_cached, picture_target, pictures_of, with_conditions
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.metrics.warp import choose, rotation, warp

Array = jax.Array


class Augment(Task):
    """A task of training alone that moves pictures."""

    always: ClassVar[bool] = False

    def spec(self, spec: Spec) -> Spec:
        """The same, if there is a picture among the fields."""
        pictures_of(spec, self)
        return spec

    def move(self, spec: Spec, batch: Batch, how: Callable[[Array, Field], Array]) -> Batch:
        """The batch with every picture x, [B, H, W, C] or [B, T, H, W, C], as how(x, its field)."""
        return {**batch, **{name: how(batch[name], field) for name, field in pictures_of(spec, self).items()}}


@dataclass(frozen=True)
class Flip(Augment):
    """Mirror left-right with probability `p`."""

    p: Share = 0.5

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """Every picture mirrored or not; of cached latents those of the mirrored picture come first."""
        flip = jax.random.bernoulli(rng, self.p, (len(batch[spec.target]),))
        if is_cached(spec):
            x = batch[spec.target]
            return {**batch, spec.target: choose(flip, x[:, ::-1], x)}
        return self.move(spec, batch, lambda x, _: choose(flip, x[..., ::-1, :], x))

    def spec(self, spec: Spec) -> Spec:
        """The same; a UserError for latents that were cached of pictures as they are alone."""
        shape = spec[spec.target].shape
        if not is_cached(spec) or len(shape) < 2:  # a text is tokens too, and without sides
            return super().spec(spec)
        if shape[0] < 2:
            raise UserError(
                "the latents were cached without mirrored pictures; cache them anew with data.augment=('flip',), or set "
                "config.data.augment=()"
            )
        return spec


@dataclass(frozen=True)
class Turn(Augment):
    """Turned by any number of quarters; pictures that are not square by none or two. With `flip` all eight forms of a square."""

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """Every picture turned."""
        square = all(field.shape[-3] == field.shape[-2] for field in pictures_of(spec, self).values())
        quarter_rng, half_rng = jax.random.split(rng)
        num = (len(batch[spec.target]),)
        quarter, half = jax.random.bernoulli(quarter_rng, 0.5, num), jax.random.bernoulli(half_rng, 0.5, num)

        def turned(x: Array, _: Field) -> Array:
            x = choose(quarter, x.swapaxes(-3, -2)[..., ::-1, :, :], x) if square else x
            return choose(half, x[..., ::-1, ::-1, :], x)

        return self.move(spec, batch, turned)


@dataclass(frozen=True)
class Crop(Augment):
    """Pad by reflection on every side and cut out the original size at a random place.

    Pictures of several sizes (a small one and what it was made from) move by whole pixels of the smallest.
    """

    pad: Natural = 4  # pixels of the largest picture

    def sizes(self, spec: Spec) -> list[tuple[int, int]]:
        """Heights and widths of the pictures, the smallest first."""
        return sorted({field.shape[-3:-1] for field in pictures_of(spec, self).values()})

    def reach(self, spec: Spec) -> list[int]:
        """The padding in rows and columns of the smallest picture."""
        return [self.pad * small // large for small, large in zip(*self.ends(spec), strict=True)]

    def ends(self, spec: Spec) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the smallest picture and of the largest."""
        sizes = self.sizes(spec)
        return sizes[0], sizes[-1]

    def spec(self, spec: Spec) -> Spec:
        """The same; a UserError for sizes that have no whole pixels in common."""
        (height, width), *others = self.sizes(spec)
        for h, w in others:
            if h % height or w % width:
                raise UserError(f"task crop moves by whole pixels of the smallest picture, {height}x{width}, and one is {h}x{w}: "
                                "no multiple; leave crop out")  # fmt: skip
        if self.pad and 0 in self.reach(spec):
            raise UserError(
                f"task crop: pad={self.pad} is less than a pixel of the smallest picture, {height}x{width}; set "
                f"pad={max(-(-large // small) for small, large in zip(*self.ends(spec), strict=True))}"
            )
        return spec

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """Every picture cut at its place."""
        sizes, reach = self.sizes(spec), self.reach(spec)
        # pixels of several sizes share a mirror at the border itself, not at a pixel's centre
        mode = "reflect" if len(sizes) == 1 else "symmetric"
        offsets = jax.random.randint(rng, (len(batch[spec.target]), 2), 0, 2 * np.array(reach) + 1)

        def cut(x: Array, field: Field) -> Array:
            factors = np.array(field.shape[-3:-1]) // np.array(sizes[0])
            pads = [(0, 0)] * (x.ndim - 3) + [(n, n) for n in reach * factors] + [(0, 0)]
            padded = jnp.pad(x, pads, mode)

            def one(picture: Array, offset: Array) -> Array:
                return jax.lax.dynamic_slice(picture, (*[0] * (x.ndim - 4), *offset, 0), field.shape)

            return jax.vmap(one)(padded, offsets * factors)

        return self.move(spec, batch, cut)


@dataclass(frozen=True)
class Piece(Augment):
    """Squares of `size` pixels from anywhere in the pictures: large stages of a cascade learn these (Saharia et al. 2022, Imagen).

    Evaluation and samples are of whole pictures, so that it is for nets whose parameters do not depend on the size, such as UNets.
    """

    size: Count = 32

    def spec(self, spec: Spec) -> Spec:
        """The same; a UserError for pictures of several sizes, or of fewer pixels a side."""
        sizes = sorted({field.shape[-3:-1] for field in pictures_of(spec, self).values()})
        (height, width), *others = sizes
        if others:
            told = " and ".join(f"{h}x{w}" for h, w in sizes)
            raise UserError(f"task piece cuts pictures of one size, and the data hold {told}; leave piece out")
        if self.size > min(height, width):
            raise UserError(
                f"task piece: size={self.size} does not fit into {height}x{width}; set size={min(height, width)}"
            )
        return spec

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """Every picture cut out at its place."""
        room = np.array(spec.shape[-3:-1]) - self.size + 1
        corners = jax.random.randint(rng, (len(batch[spec.target]), 2), 0, room)

        def cut(x: Array, field: Field) -> Array:
            sizes = (*field.shape[:-3], self.size, self.size, field.shape[-1])
            return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (*[0] * (one.ndim - 3), *at, 0), sizes))(
                x, corners
            )

        return self.move(spec, batch, cut)


@dataclass(frozen=True)
class Geometric(Augment):
    """Mirrored, scaled, turned, stretched and shifted images, of which the net is told (Karras et al. 2022, EDM, table 6).

    It is told by the condition "augment" [9]: 0 for "as it is", which is what sampling asks for, so that nothing leaks into
    the samples. p: probability of each transformation (the paper: 0.12 on CIFAR-10, 0.15 at 64 x 64), but of left-right
    mirroring, which is always a fair coin. Pictures become floats in about [-1, 1]; masks stay masks.
    """

    p: Share = 0.12
    scale: NonNegative = 0.2  # standard deviation of log2 of the size
    stretch: NonNegative = 0.2  # of log2 of the size along a random direction, and of its inverse across
    shift: NonNegative = 0.125  # standard deviation in sides of the image
    turn: NonNegative = 1.0  # largest angle, in units of pi
    upside: Share = 0.5  # share of the chosen that is mirrored top-bottom

    def spec(self, spec: Spec) -> Spec:
        """Pictures as floats, and the condition "augment"."""
        picture_target(spec, self)
        floats = {name: replace(field, dtype="float32") for name, field in spec.of("image", "frames", "latent").items()}
        return with_conditions(Spec(spec, **floats), self, augment=Field((9,), "float32", "embedding"))

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """Every picture moved by one affine map, and augment [B, 9]."""
        sides = np.array(spec.shape[-3:-1])
        keys = iter(jax.random.split(rng, 12))
        num = len(batch[spec.target])

        def sometimes(value: Array) -> Array:
            return choose(jax.random.bernoulli(next(keys), self.p, (num,)), value, jnp.zeros_like(value))

        angle = lambda: jax.random.uniform(next(keys), (num,), minval=-math.pi, maxval=math.pi)  # noqa: E731
        mirror = jax.random.bernoulli(next(keys), 0.5, (num,)).astype(jnp.float32)
        upside = sometimes(jax.random.bernoulli(next(keys), self.upside, (num,)).astype(jnp.float32))
        size = sometimes(jax.random.normal(next(keys), (num,)))
        turn = sometimes(self.turn * angle())
        along, stretch = angle(), sometimes(jax.random.normal(next(keys), (num,)))
        shift = sometimes(jax.random.normal(next(keys), (num, 2)))

        # scaled, turned, stretched, shifted: the inverse undoes the last first
        inverse = jnp.exp2(-self.scale * size)[:, None, None] * rotation(-turn)
        factors = jnp.exp2(self.stretch * jnp.stack([-stretch, stretch], -1))
        moved = shift * self.shift * jnp.array(sides)
        with jax.default_matmul_precision("highest"):
            inverse = inverse @ (rotation(along) * factors[:, None]) @ rotation(-along)
            inverse = jnp.concatenate([inverse, -inverse @ moved[..., None]], -1)

        def move(x: Array, field: Field) -> Array:
            x = choose(mirror > 0, x[..., ::-1, :], x)
            x = choose(upside > 0, x[..., ::-1, :, :], x)
            ratio = np.append(field.shape[-3:-1] / sides, 1.0)  # a smaller picture has fewer pixels to the side
            flat = x if field.kind == "mask" else to_float(x)
            flat = flat.astype(jnp.float32).reshape(num, -1, *field.shape[-3:])
            flat = jnp.moveaxis(flat, 1, -2)  # frames beside channels
            out = warp(flat.reshape(*flat.shape[:3], -1), inverse * (ratio[:2, None] / ratio))
            out = jnp.moveaxis(out.reshape(flat.shape), -2, 1).reshape(x.shape)
            return (out > 0.5).astype(x.dtype) if field.kind == "mask" else out

        drawn = [
            mirror, upside, size, jnp.cos(turn) - 1, jnp.sin(turn), stretch * jnp.cos(along), stretch * jnp.sin(along),
            shift[:, 0], shift[:, 1],
        ]  # fmt: skip
        return {**self.move(spec, batch, move), "augment": jnp.stack(drawn, -1)}


@dataclass(frozen=True)
class Dequantise(Augment):
    """Every level k = 0 .. 255 of the target as a number drawn from its 256th of [-1, 1]: (k + u) / 128 - 1, u ~ U(0, 1).

    WGAN-GP's critic (Gulrajani et al. 2017, the authors' code) sees CIFAR-10 so: levels alone would give real images away. The
    target becomes floats.
    """

    def spec(self, spec: Spec) -> Spec:
        """The target as floats."""
        return Spec(spec, **{spec.target: replace(picture_target(spec, self), dtype="float32")})

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The target between its levels."""
        levels = 127.5 * (to_float(batch[spec.target]) + 1.0)
        return {**batch, spec.target: (levels + jax.random.uniform(rng, levels.shape)) / 128.0 - 1.0}

    def undo(self, frozen: dict[str, Frozen], x: Array) -> Array:
        """A sample whose levels are rounded: those of a 256th are its level."""
        return (128.0 * (x + 1.0) - 0.5) / 127.5 - 1.0
