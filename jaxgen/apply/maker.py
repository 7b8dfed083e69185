"""What a run makes of a picture: by which of its abilities, at which sizes, and how far around itself a pixel of it sees."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.apply.tiles import Axis, Canvas, Cut, chunks
from jaxgen.config.files import plain
from jaxgen.core import conditions, keys, parallel
from jaxgen.core.method import Reconstructs, Restores, Samples
from jaxgen.core.spec import Field
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Asks, Batch, is_cached
from jaxgen.errors import NotFinite, UserError
from jaxgen.images import luma
from jaxgen.metrics.resize import resize
from jaxgen.runs.posthoc import Choice
from jaxgen.runs.trained import Trained

FEW = 3  # tiles along a side
FARTHEST = 128  # pixels of a halo; with more, most of a tile would be thrown away
NEAR = 1e-5  # outputs in [-1, 1] that are nearer are the same


class Sizes(NamedTuple):
    """Which pictures a function takes, and how far its outputs depend on inputs."""

    native: tuple[int, int]  # what it was trained on
    multiple: int = 0  # of sides that it takes; 0: it takes `native` alone
    least: int = 1  # side that it takes, a multiple
    halo: int = -1  # pixels, a multiple; -1: farther than FARTHEST, or everything depends on everything


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut."""

    tile: tuple[int, int]
    multiple: int = 1
    halo: int = 0
    overlap: int = 0  # more than 0: tiles are blended
    whole: bool = False  # pictures smaller than a tile go through as they are; else they are reflected to its size
    least: int = 1
    shared: bool = False  # sides of few tiles have smaller ones, so that these share the work

    def cut(self, height: int, width: int) -> Cut:
        """A picture of that size."""
        sides = []
        for side, tile in zip((height, width), self.tile, strict=True):
            if self.whole:
                padded = max(self.least, -(-side // self.multiple) * self.multiple)
                count = -(-(padded - 2 * self.halo) // (tile - 2 * self.halo))
                if self.shared and 1 < count <= FEW:  # in steps, so that pictures of many sizes have few programs
                    step = -(-32 // self.multiple) * self.multiple
                    need = -(-(padded + 2 * self.halo * (count - 1)) // count)
                    tile = min(tile, max(self.least, -(-need // step) * step))
                tile = min(tile, padded)
            sides.append(Axis.cut(side, tile, self.multiple, self.halo, self.overlap))
        return Cut(*sides)


class Made(NamedTuple):
    """What was made of a picture."""

    pixels: np.ndarray  # uint8 or uint16 [H, W, C]
    seam: float  # between tiles that were blended, in levels of 255
    tiles: int  # that went through the run


@dataclass(frozen=True)
class Maker:
    """A run that makes pictures of pictures. `masked`: they come with a mask."""

    trained: Trained
    choice: Choice
    masked: bool

    def __post_init__(self) -> None:
        """A UserError for a run that cannot, for a mask too many, and for one that is missing."""
        exp = self.trained.exp
        if is_cached(exp.data):
            raise UserError(
                f"{self.name} was trained on cached latents, whose pictures it does not make; name a run on pictures"
            )
        if self.output.kind != "image" or self.output.shape[-1] not in (1, 3):
            raise UserError(
                f"{self.name} makes {self.output.kind} of shape {self.output.shape}, no pictures in grey or RGB"
            )
        if not self.samples and not isinstance(exp.method, Restores | Reconstructs):
            needs = [name for name in exp.from_data if exp.spec[name].kind in ("image", "mask")]
            why = f"its condition {needs[0]!r} is not what a picture says" if needs else "it is told no picture"
            raise UserError(
                f"{self.name}: method {exp.config.method.name} makes nothing of a picture ({why}); name a run that restores, "
                "enlarges or translates, or of a diffusion model a restorer (--task=hide --restorer=ddnm --known=MASK)"
            )
        if self.masked and self.scale > 1:
            raise UserError(f"{self.name} enlarges, so no pixel stays as it is; leave --known out")
        if self.samples and not self.masked and exp.spec.conditions.of("mask"):
            raise UserError(
                f"{self.name} makes anew what a mask says; give one: --known=MASK, white where that is, or --known=alpha"
            )
        self._shape(*self.field.shape[:2])  # what the task refuses

    @property
    def name(self) -> str:
        """Of the run, for messages."""
        return str(self.trained.run.path)

    @cached_property
    def w(self) -> Weights:
        """As its samples have them."""
        exp, w = self.trained.exp, self.choice.weights()
        with exp.explaining({self.choice.name: w}):
            exp.refuse_broken(w)
        return exp.settled(w)

    @cached_property
    def task(self) -> Asks | None:
        """What makes conditions of a person's picture, where something does."""
        if restored := self.trained.exp.restored:
            return restored.task
        stages = self.trained.exp.stages if isinstance(self.trained.exp.method, Samples) else ()
        return next((task for _, task, _ in reversed(stages) if task.always and isinstance(task, Asks)), None)

    @cached_property
    def seen(self) -> str:
        """The condition that a person's picture is as it is, of data that are pairs; "": there is none."""
        exp = self.trained.exp
        own = [name for name in exp.from_data if exp.spec[name].kind == "image" and name in exp.data]
        return own[0] if own and not self.task and isinstance(exp.method, Samples) else ""

    @property
    def samples(self) -> bool:
        """Whether the run draws samples that are told the picture; else it restores it, or encodes and decodes."""
        exp = self.trained.exp
        told = {self.seen}.union(*(stage.adds for stage in exp.stages if stage.task is self.task))
        needed = {name for name in exp.from_data if exp.spec[name].kind in ("image", "mask", "frames")}
        return bool(self.task or self.seen) and needed <= told

    @cached_property
    def field(self) -> Field:
        """What a picture must be, but for its size where others are taken."""
        exp = self.trained.exp
        if not self.samples:
            return exp.data[exp.data.target]
        if self.seen:
            return exp.spec[self.seen]
        return self.task.given(next(stage.before for stage in exp.stages if stage.task is self.task))

    @property
    def output(self) -> Field:
        """What is made, as the data have it: their target, or what took its place (of pairs that are told the other way)."""
        data = self.trained.exp.data
        return data[self.trained.exp.spec.target if self.trained.exp.spec.target in data else data.target]

    @property
    def scale(self) -> int:
        """How many times larger pictures become."""
        return self.output.shape[0] // self.field.shape[0]

    @property
    def evaluations(self) -> int:
        """Of nets, for one tile."""
        return getattr(self.trained.exp.method, "nfe", 1) if self.samples else 1

    def make(self, w: Weights, x: Array, known: Array | None, rng: Array) -> Array:
        """[B, h, w, C] in [-1, 1] and, of the output's size, 1 where a pixel stays -> [B, H, W, C]."""
        exp, tasks = self.trained.exp, keys.named(rng, "tasks")
        if not self.samples:
            batch = exp.see(w.frozen, {exp.data.target: x}, tasks)
            do = exp.method.restore if isinstance(exp.method, Restores) else exp.method.reconstruct
            return exp.show(w.frozen, do(w, batch, keys.named(rng, "use")))
        height, width = (side * self.scale for side in x.shape[1:3])
        batch: Batch = {exp.data.target: jnp.zeros((len(x), height, width, exp.data.shape[-1]))}
        batch |= {self.seen: x} if self.seen else {}
        for i, (before, task, _) in enumerate(exp.stages):
            if task is self.task:
                batch = {**batch, **self.task.ask(x, known)}
            elif task.always:
                batch = task(before, w.frozen, batch, keys.named(tasks, "task", i))
        cond = conditions.read(exp.spec, batch, len(x))
        return exp.show(w.frozen, exp.method.sample(w, rng, len(x), cond), cond)

    @property
    def colours(self) -> bool:
        """Whether colour is what it makes: of pairs, and of what has lost its colour. Else grey stays grey."""
        return bool(self.seen) or (self.samples and getattr(self.task, "colours", False))

    def channels(self, seen: int) -> int:
        """Of what becomes of a picture of 1 or 3."""
        return self.output.shape[-1] if self.colours else seen

    def coloured(self, w: Weights, x: Array, known: Array | None, rng: Array) -> Array:
        """The same of pictures with other channels than the run's: grey stays grey, colour colour, unless the run `colours`.

        Grey for a run in colour: three times, and the luma of what comes. Colour for a run in grey: channel by channel; enlarged,
        its luma, and the colours by cubic interpolation, as papers on super-resolution have it.
        """
        channels = x.shape[-1]
        own, made = self.field.shape[-1], self.output.shape[-1]
        if channels == 3 and self.colours and (own == 1 or not self.seen):  # what it is given has no colour
            x, channels = luma(x), 1
        if channels == own or channels == 1:
            found = self.make(w, jnp.broadcast_to(x, (*x.shape[:-1], own)), known, rng)
            return luma(found) if made == 3 and channels == 1 and not self.colours else found
        if self.scale == 1:
            parts = jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3], 1)
            parts = self.make(w, parts, None if known is None else jnp.repeat(known, channels, 0), rng)
            return jnp.moveaxis(parts.reshape(len(x), channels, *parts.shape[1:3]), 1, -1)
        size = tuple(side * self.scale for side in x.shape[1:3])
        smooth = resize((x + 1.0) * 127.5, size, "pil_bicubic") / 127.5 - 1.0
        return jnp.clip(smooth + self.make(w, luma(x), known, rng) - luma(smooth), -1.0, 1.0)

    def _shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of what becomes of one picture of that size."""
        x = jax.ShapeDtypeStruct((1, height, width, self.field.shape[-1]), jnp.float32)
        known = (
            jax.ShapeDtypeStruct((1, height * self.scale, width * self.scale, 1), jnp.float32) if self.masked else None
        )
        # of conditions alone a mask is asked for by the task itself, so the target's may be missing here
        return jax.eval_shape(
            self.make, self.trained.state.view(), x, known if self._takes_mask else None, self.trained.exp.root
        ).shape

    @property
    def _takes_mask(self) -> bool:
        """A run that restores whole pictures keeps known pixels all the same: they are put back at the end."""
        return self.masked and self.samples and not self.seen

    def fits(self, height: int, width: int) -> bool:
        """Whether the run makes pictures of that size."""
        try:
            return self._shape(height, width) == (
                1,
                height * self.scale,
                width * self.scale,
                self.output.shape[-1],
            )
        except Exception:  # of many kinds: a net says in its own way that its weights are of another size
            return False

    @cached_property
    def sizes(self) -> Sizes:
        """Found once for a run: run.json remembers it."""
        config = self.trained.exp.config
        parts = [plain(config.method), plain(config.tasks), self.field.shape, self.masked]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
        run = self.trained.run
        if found := run.told("apply").get(key):
            return Sizes(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
        found = self._found()
        run.tell("apply", {**run.told("apply"), key: found._asdict()})
        return found

    def _found(self) -> Sizes:
        native = self.field.shape[:2]
        for multiple in (1, 2, 4, 8, 16, 32, 64):
            odd = 33 // multiple | 1
            if self.fits(multiple * odd, multiple * (odd + 2)):
                least = next(n for n in (1, 2, 4, 8, 16, 32, 64) if n == 64 or self.fits(n * multiple, n * multiple))
                return Sizes(native, multiple, least * multiple, self._halo(multiple))
        return Sizes(native)

    def _halo(self, multiple: int) -> int:
        """A dependence probe: which outputs a spoilt square of pixels reaches, and then whether what lies farther may be anything.

        NaN goes wherever a net is connected; but also through products with 0, such as those of a resize, and not through the
        choice of a nearest code. So where it goes too far noise is asked, and in any case the last word is that of noise.
        """
        scale, rng = self.scale, self.trained.exp.root
        for reach in (FARTHEST // 4, FARTHEST):
            side = -(-(2 * reach + 64) // multiple) * multiple
            known = jnp.zeros((1, side * scale, side * scale, 1)) if self._takes_mask else None
            program = jax.jit(lambda w, x, known=known: self.make(w, x, known, rng))
            x, *noise = (
                np.random.default_rng(0).uniform(-1, 1, (4, 1, side, side, self.field.shape[-1])).astype(np.float32)
            )
            centre = side // 2 // multiple * multiple
            want = np.asarray(program(self.w, x))

            def changed(rows: slice, other: np.ndarray | float, program=program, x=x) -> np.ndarray:
                spoilt = x.copy()
                spoilt[:, rows, rows] = other[:, rows, rows] if isinstance(other, np.ndarray) else other
                return np.asarray(program(self.w, spoilt))

            spot = slice(centre, centre + multiple)
            halo = _reached(np.isnan(changed(spot, np.nan)), spot, scale, multiple)
            if halo > reach:
                seen = [changed(spot, 8 * other) != want for other in noise]
                halo = _reached(np.logical_or.reduce(seen), spot, scale, multiple)
            part = slice(centre - 8, centre + 8)
            while halo <= reach:
                kept = slice(max(0, part.start - halo), part.stop + halo)
                inside = np.zeros((1, side, side, 1), bool)
                inside[:, kept, kept] = True
                out = slice(part.start * scale, part.stop * scale)
                apart = [program(self.w, np.where(inside, x, other)) - want for other in noise]
                if max(float(np.abs(d[:, out, out]).max()) for d in apart) <= NEAR:
                    return halo
                halo = max(multiple, 2 * halo)
        return -1

    def tiling(self, tile: int, overlap: int) -> Tiling:
        """Of that side and overlap, -1 each: as it fits the run. What does not fit is a UserError."""
        _, multiple, least, halo = self.sizes
        if not multiple or halo < 0:
            return self._blended(tile, overlap)
        if self.field.shape[-1] == 1 and self.scale > 1:
            halo = max(halo, -(-4 // multiple) * multiple)  # of the cubic filter
        if overlap >= 0:
            if overlap < 2 * halo:
                raise UserError(
                    f"--overlap={overlap} is under twice the halo of {halo} pixels that {self.name} sees, and seams would show; "
                    f"set --overlap={2 * halo}, or leave it out"
                )
            halo = overlap // (2 * multiple) * multiple
        wide = 256 if jax.default_backend() == "cpu" else 512
        shared = tile < 0
        tile = wide + 2 * halo if shared else tile
        if tile <= 2 * halo or tile % multiple or tile < least:
            need = max(least, 2 * halo + max(multiple, 32 // multiple * multiple))
            raise UserError(
                f"--tile={tile} must be a multiple of {multiple} above twice the halo of {halo} pixels that {self.name} sees; set "
                f"--tile={need}, or leave it out"
            )
        return Tiling((tile, tile), multiple, halo, whole=True, least=least, shared=shared)

    def _blended(self, tile: int, overlap: int) -> Tiling:
        """Of a run that takes one size alone, or that sees all of a picture: the size that it was trained on fits it best."""
        native, multiple, least, _ = self.sizes
        sides, step = (tile, tile) if tile > 0 else native, max(1, multiple)
        if not multiple and sides != native:
            raise UserError(f"--tile={tile}: {self.name} takes {native[1]}x{native[0]} alone; leave --tile out")
        if not self.fits(*sides):
            need = max(least, -(-sides[0] // step) * step)
            raise UserError(f"--tile={tile}: {self.name} takes multiples of {step} from {least}; set --tile={need}")
        most = min(sides) // 2 // step * step
        overlap = min(most, max(step, min(sides) // 4 // step * step)) if overlap < 0 else overlap
        if not 0 < overlap <= most or overlap % step:
            raise UserError(
                f"--overlap={overlap} must be at most {most}, half of a tile, in steps of {step}; leave it out"
            )
        return Tiling(sides, step, overlap=overlap)

    def batch(self, tiling: Tiling, cut: Cut) -> int:
        """Tiles that go through at once: as many small ones as make 256 x 256 pixels, and one for each device."""
        height, width = cut.tile
        most = max(1, (1 << 16) // (height * width)) if tiling.overlap else 1
        return self.trained.exp.spread(min(1 << (most.bit_length() - 1), 1 << (len(cut) - 1).bit_length()))

    def through(
        self,
        image: np.ndarray,
        known: np.ndarray | None,
        tiling: Tiling,
        seed: int = 0,
        tick: Callable[[int], Any] = lambda n: None,
    ) -> Made:
        """A picture of any size, uint8 or uint16 [H, W, 1 | 3], and bool [H, W, 1], True where it stays as it is.

        tick: told how many tiles are done. NaN is a NotFinite.
        """
        cut = tiling.cut(*image.shape[:2])
        canvas = Canvas(cut, self.scale, self.channels(image.shape[-1]), image.dtype)
        worked = 0
        for i, tile in self._tiles(image, known, cut, self.batch(tiling, cut), bool(tiling.overlap), seed):
            canvas.add(tile)
            worked += i
            tick(1)
        if known is not None:
            np.copyto(canvas.pixels, image, where=known)
        return Made(canvas.pixels, canvas.seam, worked)

    def timed(self, tiling: Tiling, cut: Cut, channels: int, dtype: Any) -> float:
        """Seconds of one program that makes tiles of that cut, without its compilation."""
        whole = Cut(*(Axis(tile, tile, (0,), blended=cut.rows.blended) for tile in cut.tile))
        blank, known = np.zeros((*cut.tile, channels), dtype), np.zeros((*cut.tile, 1), bool) if self.masked else None
        spent = 0.0
        for _ in range(2):
            began = time.perf_counter()
            list(self._tiles(blank, known, whole, self.batch(tiling, cut), bool(tiling.overlap), 0))
            spent = time.perf_counter() - began
        return spent

    def _tiles(
        self, image: np.ndarray, known: np.ndarray | None, cut: Cut, size: int, floats: bool, seed: int
    ) -> Iterator[tuple[bool, np.ndarray]]:
        """The tiles in their order, and whether they went through the run: those of which all is known need not."""
        exp, root = self.trained.exp, keys.named(keys.root(seed), "apply")
        half = np.iinfo(image.dtype).max / 2
        waiting: deque[tuple[list[int], Any]] = deque()
        plain_tile = lambda x: (x / half - 1).astype(np.float32) if floats else x  # noqa: E731
        masks = {} if known is None else {i: cut.take(known, i) for i in range(len(cut))}
        idle = {i for i, mask in masks.items() if mask.all()}
        at = 0

        def fetched() -> Iterator[tuple[bool, np.ndarray]]:
            nonlocal at
            numbers, (made, sound) = waiting.popleft()
            made, sound = jax.device_get((made, sound))
            if not sound[: len(numbers)].all():
                raise NotFinite("what was made of it holds NaN or infinity")
            for number, tile in zip(numbers, made, strict=False):
                while at < number:  # tiles between, of which all is known
                    yield False, plain_tile(cut.take(image, at))
                    at += 1
                yield True, tile
                at += 1

        for chunk in chunks([i for i in range(len(cut)) if i not in idle], size):
            rows = [*chunk, *[chunk[-1]] * (size - len(chunk))]
            batch = {"image": np.stack([cut.take(image, i) for i in rows])}
            if self._takes_mask:
                batch["known"] = np.stack([masks[i] for i in rows]).astype(np.uint8)
            placed = parallel.put_batch(exp.mesh, batch)
            waiting.append((chunk, self._program(floats)(self.w, placed, keys.named(root, "tiles", chunk[0]))))
            if len(waiting) > 1:  # the device has the next one while this one is fetched
                yield from fetched()
        while waiting:
            yield from fetched()
        while at < len(cut):
            yield False, plain_tile(cut.take(image, at))
            at += 1

    def _program(self, floats: bool) -> Callable[[Weights, Batch, Array], tuple[Array, Array]]:
        """(weights, {image: levels [B, h, w, c], known}, rng) -> (floats in [-1, 1], or levels, [B, H, W, c]; finite [B])."""

        def run(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
            image = batch["image"]
            most = jnp.iinfo(image.dtype).max
            known = batch["known"].astype(jnp.float32) if "known" in batch else None
            made = self.coloured(w, image.astype(jnp.float32) / (0.5 * most) - 1.0, known, rng)
            sound = jnp.isfinite(made).reshape(len(made), -1).all(1)
            if not floats:
                made = jnp.clip(jnp.rint((made + 1.0) * (0.5 * most)), 0, most).astype(image.dtype)
            return made, sound

        return self.trained.exp.jit(("apply", floats, self.masked), run)


def _reached(outputs: np.ndarray, spot: slice, scale: int, multiple: int) -> int:
    """How far from a square of inputs outputs [1, H, W, C] are True, in inputs, rounded up to a multiple."""
    far = [0]
    for axis in (1, 2):
        found = np.flatnonzero(outputs.any(tuple(i for i in range(4) if i != axis)))
        if len(found):
            far += [spot.start - int(found[0]) // scale, -(-(int(found[-1]) + 1) // scale) - spot.stop]
    return -(-max(far) // multiple) * multiple
