"""What a discriminator sees of real and generated images, so that few images last: ADA and DiffAugment.

ADA (Karras et al. 2020, arXiv:2006.06676): a pipe of changes, each made with probability p, on all that D sees, in D's updates
and G's. G is judged after the changes and so could learn to make changed images. It need not: while p is below 1 the image as
it is stays likelier than any one change of it, and G finds that. At p = 1 a mirrored image is as likely as an upright one, so
the changes leak into the samples. p is led by what D says of real images: E sign D(x) nears 1 as D learns them by heart.

These are no changes of the data (`data.augment`), which G would learn as they are.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, NonNegative, Share
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.losses.regularize import Memory
from jaxgen.metrics.warp import choose, mirror, rotation, warp

Array = jax.Array


class GanAugment(Protocol):
    """What D sees of real and generated images alike."""

    def start(self) -> Memory:
        """What it remembers, before the first step; nothing where it never adapts."""

    def __call__(self, x: Array, rng: Array, memory: Memory) -> Array:
        """Images [B, H, W, C] in [-1, 1] -> the same, changed; differentiable."""

    def adapt(self, memory: Memory, real_logits: Array, step: Array) -> Memory:
        """What it remembers after an update of D at `step`, which said this of real images: above 0 that they are real."""

    def probability(self, memory: Memory) -> Array | float:
        """Of each of its changes, for the log."""


@dataclass(frozen=True, kw_only=True)
class NoAugment:
    """D sees the images themselves."""

    def start(self) -> Memory:
        """Nothing."""
        return {}

    def __call__(self, x: Array, rng: Array, memory: Memory) -> Array:
        """x."""
        return x

    def adapt(self, memory: Memory, real_logits: Array, step: Array) -> Memory:
        """The same."""
        return memory

    def probability(self, memory: Memory) -> Array | float:
        """0."""
        return 0.0


class Change(NamedTuple):
    """How the numbers of one change are drawn, and how many an image needs."""

    of: Literal["uniform", "normal"]
    count: int = 1


# group -> its changes, in the order of the paper's appendix B
GROUPS: dict[str, dict[str, Change]] = {
    "blit": {"flip": Change("uniform"), "quarter": Change("uniform"), "jump": Change("uniform", 2)},
    "geom": {
        "scale": Change("normal"),
        "turn": Change("uniform"),
        "stretch": Change("normal"),
        "turn_again": Change("uniform"),
        "shift": Change("normal", 2),
    },
    "color": {
        "brightness": Change("normal"),
        "contrast": Change("normal"),
        "luma_flip": Change("uniform"),
        "hue": Change("uniform"),
        "saturation": Change("normal"),
    },
    "filter": {f"band{i}": Change("normal") for i in range(4)},
    "noise": {"noise": Change("normal")},
    "cutout": {"cutout": Change("uniform", 2)},
}
SYM2 = np.array([-0.12940952255126037, 0.22414386804201339, 0.8365163037378079, 0.48296291314453414])  # Daubechies
POWER = np.array([10, 1, 1, 1]) / 13  # of the four bands, from low to high, in a picture


class Drawn(NamedTuple):
    """What was drawn for a batch: each change's numbers [B, count] and its gate [B] in [0, 1), made where gate < p."""

    numbers: dict[str, Array]
    gates: dict[str, Array]
    grain: Array | None = None  # [B, H, W, C] normal: the noise


@dataclass(frozen=True, kw_only=True)
class Pipe(NoAugment):
    """The changes of ADA, drawn for each image by itself; see `fixed` and `ada` for their probability.

    pipe: bgc is blit, geom and color; bg leaves colours alone; bgcf adds filter, bgcfn noise, bgcfnc cutout. Colours need 1, 3
    or 4 channels: one has brightness, contrast and luma flip alone, of four the last (alpha) is moved and keeps its values.
    """

    pipe: Literal[
        "bgc", "bg", "bgcf", "bgcfn", "bgcfnc", "blit", "geom", "color", "filter", "noise", "cutout"
    ] = "bgc"  # fmt: skip
    jump: NonNegative = 0.125  # largest shift by whole pixels, in sides of the image
    scale: NonNegative = 0.2  # standard deviation of log2 of the size
    turn: NonNegative = 1.0  # largest angle, in units of pi
    stretch: NonNegative = 0.2  # standard deviation of log2 of the width, and of its inverse for the height
    shift: NonNegative = 0.125  # standard deviation in sides of the image
    brightness: NonNegative = 0.2  # standard deviation, of values in [-1, 1]
    contrast: NonNegative = 0.5  # standard deviation of its log2
    hue: NonNegative = 1.0  # largest angle, in units of pi
    saturation: NonNegative = 1.0  # standard deviation of its log2
    filter: NonNegative = 1.0  # standard deviation of log2 of a band's strength
    noise: NonNegative = 0.1  # standard deviation of the standard deviation
    cutout: Share = 0.5  # side of the hole, in sides of the image
    shape: TargetShape = (32, 32, 3)

    def __post_init__(self) -> None:
        if "color" in self.groups and self.shape[-1] not in (1, 3, 4):
            cure = "bg" if "b" in self.pipe else "geom"
            raise UserError(
                f"method.augment.pipe={self.pipe!r} changes colours, and images of {self.shape[-1]} channels have none that it "
                f"knows; set method.augment.pipe={cure}"
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of changes that are made."""
        return (self.pipe,) if self.pipe in GROUPS else tuple(GROUPS)[: len(self.pipe)]  # a letter each, in their order

    def __call__(self, x: Array, rng: Array, memory: Memory) -> Array:
        """Images [B, H, W, C] in [-1, 1], each changed as drawn for it; what nothing was drawn for stays, to the bit."""
        return self.change(x, self.draw(rng, x.shape), self.probability(memory))

    def draw(self, rng: Array, shape: tuple[int, ...]) -> Drawn:
        """What decides all changes of images [B, H, W, C]."""
        changes = {name: change for group in self.groups for name, change in GROUPS[group].items()}
        gate_rng, *keys, grain_rng = jax.random.split(rng, 4)
        gates = jax.random.uniform(gate_rng, (len(changes), shape[0]))
        rows = {}
        for kind, key in zip(("uniform", "normal"), keys, strict=True):
            many = sum(change.count for change in changes.values() if change.of == kind)
            rows[kind] = iter(getattr(jax.random, kind)(key, (many, shape[0])))
        numbers = {k: jnp.stack([next(rows[of]) for _ in range(count)], -1) for k, (of, count) in changes.items()}
        grain = jax.random.normal(grain_rng, shape) if "noise" in changes else None
        return Drawn(numbers, dict(zip(changes, gates, strict=True)), grain)

    def change(self, x: Array, drawn: Drawn, p: Array | float) -> Array:
        """Images [B, H, W, C], each changed as drawn, in the paper's order."""
        if {"blit", "geom"} & {*self.groups}:
            inverse = self.inverse(drawn, p, x.shape)
            moved = (inverse != jnp.eye(2, 3)).any((1, 2))
            x = choose(moved, warp(x, inverse), x)
        if "color" in self.groups:
            colours = min(x.shape[-1], 3)
            matrix, offset = self.colours(drawn, p, colours)
            seen = jnp.einsum("bhwc,bdc->bhwd", x[..., :colours], matrix, precision="highest") + offset
            other = (matrix != jnp.eye(colours)).any((1, 2)) | (offset != 0).any((1, 2, 3))
            seen = choose(other, seen, x[..., :colours])
            x = jnp.concatenate([seen, x[..., colours:]], -1) if x.shape[-1] > colours else seen
        if "filter" in self.groups:
            x = self.filtered(x, drawn, p)
        if "noise" in self.groups:
            strength = self.noise * jnp.abs(made(drawn, "noise", p))
            x = x + strength[:, :, None, None] * drawn.grain
        if "cutout" in self.groups:
            x = self.holed(x, drawn, p)
        return x

    def inverse(self, drawn: Drawn, p: Array | float, shape: tuple[int, ...]) -> Array:
        """[B, 2, 3]: the inverse of all that moves pixels (row, column), as `warp` takes it."""
        num, sides = shape[0], np.array(shape[1:3])
        matrix, moved = jnp.broadcast_to(jnp.eye(2), (num, 2, 2)), jnp.zeros((num, 2))
        # the inverse undoes the last change first: it is built from the back
        with jax.default_matmul_precision("highest"):
            if "geom" in self.groups:
                # two rotations, so that one at least is made with probability p
                each = 1.0 - jnp.sqrt(1.0 - p)
                turn, again = (made(drawn, name, each, centred) for name in ("turn", "turn_again"))
                width = jnp.exp2(self.stretch * made(drawn, "stretch", p))
                back = rotation(-math.pi * self.turn * turn[:, 0]) * jnp.concatenate([width, 1 / width], -1)[:, None]
                matrix = back @ rotation(-math.pi * self.turn * again[:, 0])
                matrix = matrix * jnp.exp2(-self.scale * made(drawn, "scale", p))[..., None]
                moved = -jnp.einsum("bij,bj->bi", matrix, self.shift * sides * made(drawn, "shift", p))
            if "blit" in self.groups:
                moved = moved - jnp.round(self.jump * sides * made(drawn, "jump", p, centred))
                quarter = made(drawn, "quarter", p, lambda u: jnp.floor(4 * u))[:, 0]
                flip = made(drawn, "flip", p, lambda u: jnp.floor(2 * u))
                # whole quarters, to the bit
                c, s = (jnp.array([1.0, 0, -1, 0])[(quarter.astype(int) + i) % 4] for i in (0, 3))
                around = jnp.stack([jnp.stack([c, s], -1), (1 - 2 * flip) * jnp.stack([-s, c], -1)], -2)
                matrix, moved = around @ matrix, jnp.einsum("bij,bj->bi", around, moved)
        return jnp.concatenate([matrix, moved[..., None]], -1)

    def colours(self, drawn: Drawn, p: Array | float, channels: int) -> tuple[Array, Array]:
        """(matrix [B, C, C], offset [B, 1, 1, 1]) of all that changes colours, of 1 or 3 channels."""
        contrast = jnp.exp2(self.contrast * made(drawn, "contrast", p))
        light = contrast * (1 - 2 * made(drawn, "luma_flip", p, lambda u: jnp.floor(2 * u)))
        offset = light * self.brightness * made(drawn, "brightness", p)
        if channels == 1:
            return light[..., None], offset[..., None, None]
        vivid = (contrast * jnp.exp2(self.saturation * made(drawn, "saturation", p)))[..., None]
        angle = (math.pi * self.hue * made(drawn, "hue", p, centred))[..., None]
        grey = np.full((3, 3), 1 / 3, np.float32)
        across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.float32(math.sqrt(3))
        # light along the grey axis; about it hue turns, and saturation is the distance from it
        chroma = jnp.cos(angle) * (np.eye(3, dtype=np.float32) - grey) + jnp.sin(angle) * across
        return light[..., None] * grey + vivid * chroma, offset[..., None, None]

    def filtered(self, x: Array, drawn: Drawn, p: Array | float) -> Array:
        """Each of four bands of frequency made stronger or weaker, at the same power of a picture on the whole."""
        names = [*GROUPS["filter"]]
        gains = jnp.ones((len(x), len(names)))
        for i, name in enumerate(names):
            band = jnp.where(np.arange(len(names)) == i, jnp.exp2(self.filter * made(drawn, name, p)), 1.0)
            gains = gains * band / jnp.sqrt((POWER * band**2).sum(-1, keepdims=True))
        einsum = functools.partial(jnp.einsum, precision="highest")
        rows, columns = (einsum("bk,kij->bij", gains, bands(side)) for side in x.shape[1:3])
        other = jnp.stack([drawn.gates[name] < p for name in names]).any(0)
        return choose(other, einsum("bhwc,bih,bjw->bijc", x, rows, columns), x)

    def holed(self, x: Array, drawn: Drawn, p: Array | float) -> Array:
        """A rectangle of zeros at a random place."""
        places = drawn.numbers["cutout"]
        far = [
            jnp.abs((np.arange(side) + 0.5) / side - place[:, None]) >= self.cutout / 2
            for side, place in zip(x.shape[1:3], (places[:, 0], places[:, 1]), strict=True)
        ]
        keep = far[0][:, :, None] | far[1][:, None] | (drawn.gates["cutout"] >= p)[:, None, None]
        return jnp.where(keep[..., None], x, 0.0)


@dataclass(frozen=True, kw_only=True)
class Fixed(Pipe):
    """Every change with one probability, from the first step to the last. At p = 1 changes leak into the samples."""

    p: Share

    def probability(self, memory: Memory) -> Array | float:
        """p."""
        return self.p


@dataclass(frozen=True, kw_only=True)
class Ada(Pipe):
    """Every change with a probability that rises while D knows its images by heart, and falls else (section 3).

    Every so many steps p += sign(E sign D(x) - target) * images / ramp, where the mean is over the images seen since; p stays in
    [0, 1]. At 1 the changes leak: there are too few images, or `target` is too low.
    """

    p: Share = 0.0  # at the first step
    target: Share = 0.6  # of the mean sign
    ramp: Count = 500_000  # images in which p may go from 0 to 1
    every: Count = 4  # steps

    def start(self) -> Memory:
        """p; of the images since it last moved: the sum of signs, and their number."""
        return {"p": jnp.float32(self.p), "signs": jnp.float32(0), "count": jnp.float32(0)}

    def probability(self, memory: Memory) -> Array | float:
        """p."""
        return memory["p"]

    def adapt(self, memory: Memory, real_logits: Array, step: Array) -> Memory:
        """Signs are summed, and p moves in every so-manieth step."""
        signs = memory["signs"] + jnp.sign(real_logits.astype(jnp.float32)).sum()
        count = memory["count"] + len(real_logits)
        p = jnp.clip(memory["p"] + jnp.sign(signs / count - self.target) * count / self.ramp, 0.0, 1.0)
        before, now = {**memory, "signs": signs, "count": count}, {**self.start(), "p": p}
        return jax.tree.map(lambda a, b: jnp.where((step + 1) % self.every == 0, b, a), before, now)


@dataclass(frozen=True, kw_only=True)
class DiffAugment(NoAugment):
    """Every image with other colours, elsewhere, and with a hole (Zhao et al. 2020, arXiv:2006.10738): no probability to lead.

    The colours of an image of four channels are its first three.
    """

    brightness: NonNegative = 0.5  # added, at most
    saturation: NonNegative = 1.0  # at most so much more or less than 1
    contrast: NonNegative = 0.5  # the same
    shift: Share = 0.125  # in sides of the image, whole pixels; what comes in is grey
    cutout: Share = 0.5  # side of the hole, in sides of the image

    colours: ClassVar[tuple[str, ...]] = ("brightness", "saturation", "contrast")

    def probability(self, memory: Memory) -> Array | float:
        """1."""
        return 1.0

    def __call__(self, x: Array, rng: Array, memory: Memory) -> Array:
        """Images [B, H, W, C] in [-1, 1], each changed as drawn for it; a change of strength 0 is none."""
        colour_rng, shift_rng, hole_rng = jax.random.split(rng, 3)
        drawn = jax.random.uniform(colour_rng, (3, len(x), 1, 1, 1), minval=-1.0)
        seen, alpha = (x[..., :3], x[..., 3:]) if x.shape[-1] == 4 else (x, x[..., :0])
        if self.brightness:
            seen = seen + self.brightness * drawn[0]
        for strength, amount, axes in ((self.saturation, drawn[1], -1), (self.contrast, drawn[2], (1, 2, 3))):
            if strength:
                mean = seen.mean(axes, keepdims=True)
                seen = mean + (seen - mean) * (1 + strength * amount)
        x = jnp.concatenate([seen, alpha], -1) if alpha.shape[-1] else seen
        sides = np.array(x.shape[1:3])
        if (reach := np.floor(sides * self.shift + 0.5).astype(int)).any():
            padded = jnp.pad(x, ((0, 0), *((n, n) for n in reach), (0, 0)))
            offsets = jax.random.randint(shift_rng, (len(x), 2), 0, 2 * reach + 1)
            cut: Callable = lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), x.shape[1:])  # noqa: E731
            x = jax.vmap(cut)(padded, offsets)
        if (hole := np.floor(sides * self.cutout + 0.5).astype(int)).all():
            starts = jax.random.randint(hole_rng, (len(x), 2), 0, sides + 1 - hole % 2) - hole // 2
            inside = [
                (np.arange(side) >= start[:, None]) & (np.arange(side) < start[:, None] + size)
                for side, start, size in zip(sides, (starts[:, 0], starts[:, 1]), hole, strict=True)
            ]
            x = jnp.where((inside[0][:, :, None] & inside[1][:, None])[..., None], 0.0, x)
        return x


def made(drawn: Drawn, name: str, p: Array | float, of: Callable[[Array], Array] = lambda number: number) -> Array:
    """`of` a change's numbers [B, count] where it is made, 0 where it is not."""
    return jnp.where(drawn.gates[name][:, None] < p, of(drawn.numbers[name]), 0.0)


def centred(uniform: Array) -> Array:
    """[0, 1) -> [-1, 1)."""
    return 2 * uniform - 1


@functools.cache
def bands(side: int) -> np.ndarray:
    """[4, side, side]: the bands of frequency of a line that goes on mirrored, from low to high; they sum to the line itself."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1.0) ** np.arange(-3, 4)
    bank = np.ones((1, 1))
    for _ in range(3):
        wide = np.zeros((len(bank), 2 * bank.shape[1] - 1))
        wide[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in wide] + [np.pad(high, (wide.shape[1] - 1) // 2)])
    out, pixels, reach = np.zeros((len(bank), side, side), np.float32), np.arange(side), bank.shape[1] // 2
    for band, taps in zip(out, bank, strict=True):
        for offset, tap in zip(range(-reach, reach + 1), taps, strict=True):
            np.add.at(band, (pixels, mirror(pixels + offset, side)), tap)
    return out
