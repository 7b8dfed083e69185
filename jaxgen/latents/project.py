"""Real pictures as latents (Karras et al. 2019, arXiv:1912.04958, appendix D): gradient descent on a distance of pictures.

    min over w, n:  d(G(w + s_t e, n), x) + 1e5 L(n),    e ~ N(0, I),  s_t = 0.05 std(w) max(0, 1 - t / 0.75)^2

w begins at its mean over 10,000 draws (z, whose mean makes no picture, at the nearest of 256), the noise maps n at random; L is how
far n is from white noise. t goes from 0 to 1, and the rate rises over the first 0.05 of it and falls over the last 0.25.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core import conditions, keys
from jaxgen.core.given import FilePath
from jaxgen.core.inputs import holding
from jaxgen.core.ranges import Count, NonNegative, Positive, Range
from jaxgen.core.state import Array, PyTree, Weights
from jaxgen.data import decode
from jaxgen.data.pipeline import share
from jaxgen.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.image_sets import nearest_rows
from jaxgen.evaluation.pictures import Pictures
from jaxgen.images import beside, to_float
from jaxgen.latents.space import Name, Points, Space
from jaxgen.latents.tool import NEEDS_W, Outcome, judged, named
from jaxgen.pretrained.features import Lpips
from jaxgen.runs.writers import say

Features = Callable[[Array], Array]  # pictures [B, H, W, C] in [-1, 1] -> [B, F]: their distance is the sum of squares


NEAR = 256  # draws of z, the nearest of which is where a picture begins


@dataclass(frozen=True)
class Projector:
    """`make(method, w, latents, cond)` -> pictures [P, H, W, C]; pictures are projected independently of each other."""

    make: Callable[..., Array]
    shape: tuple[int, ...]  # of a latent among Points
    name: str  # z, w, w+
    iterations: int
    rate: float
    draws: int
    jitter: float
    whiteness: float
    frames: int

    def __call__(
        self, method: Any, w: Weights, features: Features, x: Array, cond: PyTree, kinds: PyTree, rng: Array
    ) -> dict[str, Array]:
        """x [P, H, W, C] -> latents [P, ...], images uint8 [P, H, W, C], distance [P], way: uint8 [frames, P, H, W, C].

        kinds: "cond", the different conditions [K], and "of" [P], which of them a picture has.
        """
        start_rng, noise_rng, jitter_rng = jax.random.split(rng, 3)
        wanted = features(x)
        middle, std = self.start(method, w, features, wanted, cond, kinds, start_rng)
        noise = random_maps(w, len(x), noise_rng)

        def whole(latents: Array) -> Array:
            return jnp.broadcast_to(latents[:, None], (len(x), *self.shape)) if self.name == "w" else latents

        def pictures(free: dict[str, PyTree]) -> Array:
            return self.make(method, with_maps(w, free["noise"]), whole(free["latents"]), cond)

        def distance(free: dict[str, PyTree]) -> Array:
            return jnp.square(features(pictures(free)) - wanted).sum(-1)

        def loss(free: dict[str, PyTree], scale: Array, key: Array) -> Array:
            eps = jax.random.normal(key, free["latents"].shape)
            scale = (scale * std).reshape(-1, *[1] * (eps.ndim - 1))
            moved = {**free, "latents": free["latents"] + scale * eps}
            return distance(moved).sum() + self.whiteness * coloured(free["noise"])

        adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)

        def step(carry: tuple, i: Array) -> tuple[tuple, None]:
            free, opt, way = carry
            t = i / self.iterations
            rate = (
                self.rate
                * (0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1 - t) / 0.25)))
                * jnp.minimum(1.0, t / 0.05)
            )
            scale = self.jitter * jnp.maximum(0.0, 1.0 - t / 0.75) ** 2
            grads = jax.grad(loss)(free, scale, jax.random.fold_in(jitter_rng, i))
            change, opt = adam.update(grads, opt)
            free = jax.tree.map(lambda p, c: p - rate * c, free, change)
            free = {**free, "noise": jax.tree.map(standardised, free["noise"])}
            way = way.at[i * self.frames // self.iterations].set(free["latents"])
            return (free, opt, way), None

        free = {"latents": middle, "noise": noise}
        way = jnp.zeros((self.frames, *middle.shape))
        (free, _, way), _ = jax.lax.scan(step, (free, adam.init(free), way), jnp.arange(self.iterations))
        made = pictures(free)

        reached = jnp.square(features(made) - wanted).sum(-1)
        seen = jax.lax.map(lambda latents: levels(pictures({**free, "latents": latents})), way)
        return {"latents": whole(free["latents"]), "way": seen, "images": levels(made), "distance": reached}

    def start(
        self, method: Any, w: Weights, features: Features, wanted: Array, cond: PyTree, kinds: PyTree, rng: Array
    ) -> tuple[Array, Array]:
        """Latents to begin at [P, ...], and their spread [P]: the root of the summed variance."""

        def told(one: PyTree, num: int) -> PyTree:
            return jax.tree.map(lambda v: jnp.broadcast_to(v, (num, *v.shape)), one)

        def of_kind(kind: PyTree) -> tuple[Array, Array]:
            z = method.draw_latents(rng, self.draws)
            styles = method.to_styles(w, z, told(kind, self.draws))[:, 0]
            return styles.mean(0), jnp.sqrt(styles.var(0).sum())

        def nearest(one: tuple[Array, PyTree]) -> Array:
            made = features(self.make(method, w, flat, told(one[1], len(flat))))
            return flat[jnp.square(made - one[0]).sum(-1).argmin()]

        if self.name != "z":
            means, stds = jax.lax.map(of_kind, kinds["cond"])
            first, std = means[kinds["of"]], stds[kinds["of"]]
            return jnp.broadcast_to(first[:, None], (len(first), *self.shape)) if self.name == "w+" else first, std
        flat = method.draw_latents(rng, NEAR).reshape(NEAR, -1)
        return jax.lax.map(nearest, (wanted, cond)), jnp.broadcast_to(jnp.sqrt(flat.var(0).sum()), len(wanted))


def levels(x: Array) -> Array:
    """[-1, 1] -> uint8, as `images.to_uint8` does on the host."""
    return jnp.clip(jnp.round((x + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def random_maps(w: Weights, num: int, rng: Array) -> dict[str, PyTree]:
    """White noise for the maps that nets keep in their collection "noise": net -> maps [num, h, w]."""
    found = {name: net["noise"] for name, net in w.nets.items() if net.get("noise")}
    leaves, form = jax.tree.flatten(found)
    maps = [standardised(jax.random.normal(jax.random.fold_in(rng, i), (num, *x.shape))) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(form, maps)


def with_maps(w: Weights, noise: dict[str, PyTree]) -> Weights:
    """The weights with other noise maps, an own one for every picture."""
    return w.replace(nets={**w.nets, **{name: {**w.nets[name], "noise": maps} for name, maps in noise.items()}})


def standardised(x: Array) -> Array:
    """Maps [P, h, w] of mean 0 and mean square 1 each."""
    x = x - x.mean((1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + 1e-12)


def coloured(noise: PyTree) -> Array:
    """How far maps [P, h, w] are from white: squared correlations of neighbours, at every scale from 8 pixels up; summed []."""
    total = jnp.zeros(())
    for x in jax.tree.leaves(noise):
        while True:
            for axis in (1, 2):
                total += jnp.square((x * jnp.roll(x, 1, axis)).mean((1, 2))).sum()
            num, h, w = x.shape
            if min(h, w) <= 8 or h % 2 or w % 2:
                break
            x = x.reshape(num, h // 2, 2, w // 2, 2).mean((2, 4))
    return total


@dataclass(frozen=True, kw_only=True)
class Project:
    """Real pictures as latents (Karras et al. 2019, appendix D): the latents whose pictures are nearest to them."""

    space: Name = ""  # z, w or w+; empty: w+ where the net has w
    images: FilePath = "eval"  # a picture, a folder of pictures, or eval: held-out ones
    num: Count = 8  # of eval
    distance: Literal["l2", "native", "lpips"] = "l2"  # of pixels, of the features of a classifier's run, LPIPS
    native: FilePath = ""  # the run of a classifier
    lpips: FilePath = ""  # a file of AlexNet's weights, where they are not to be downloaded
    labels: Literal["given", "estimated"] = "given"  # by --labels or by the data, or as the picture looks
    iterations: Count = 1000  # of Adam
    rate: Positive = 0.1  # of Adam
    draws: Annotated[int, Range(least=2)] = 10_000  # of w, for its mean and spread
    jitter: NonNegative = 0.05  # noise added to w at first, in standard deviations
    whiteness: NonNegative = 1e5  # weight of the noise maps' correlations
    frames: Count = 40  # of the film
    batch: Count = 32  # pictures at once
    without_w: ClassVar[str] = NEEDS_W

    def __call__(self, space: Space) -> Outcome:
        """Originals beside projections, a film of the way, and a file of latents; `error` is the mean distance of pixels."""
        if space.styled and not self.space:
            space = dataclasses.replace(space, name="w+")
        images, known = self._pictures(space)
        cond = self._labels(space, images, known)
        see, frozen = self._distance(space, images)
        parts = []
        for start in range(0, len(images), self.batch):
            rows = slice(start, start + self.batch)
            parts.append(self._projected(space, see, frozen, images[rows], {k: v[rows] for k, v in cond.items()}))
        found = {k: np.concatenate([p[k] for p in parts], 1 if k == "way" else 0) for k in parts[0]}
        made = found["images"]
        name = "w" if space.styled else "z"
        return Outcome(
            self._figures(space, images, made, found["distance"]),
            {"": beside([images, made])},
            columns=2 * min(len(images), 8),
            captions=("given", "found") * min(len(images), 8),
            about={"N": len(images)},
            frames=np.stack([beside([images, x]) for x in [*found["way"], *[made] * 10]]),
            frame_columns=2 * min(len(images), 8),
            arrays={
                name: found["latents"],
                "images": made,
                "distance": found["distance"],
                **named(space, Points(made, cond)),
            },
        )

    def _pictures(self, space: Space) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 [P, H, W, C], and the labels that the data know."""
        exp = space.exp
        if self.images == "eval":
            source = exp.open_source("eval")
            rows = [source[int(i)] for i in share(source, self.num)]
            label = space.label
            return np.stack([row[exp.data.target] for row in rows]), np.stack(
                [row[label] for row in rows]
            ) if label else None
        path, shape = Path(self.images), exp.data.shape
        files = [path / name for name in Pictures.folder(str(path)).names] if path.is_dir() else [path]
        found = []
        for file in files:
            try:
                found.append(decode.photo(str(file), shape[-1]))
            except decode.Unreadable as error:
                raise UserError(str(error)) from error
            if found[-1].shape != shape:
                high, wide = found[-1].shape[:2]
                raise UserError(
                    f"{file} is {wide}x{high} pixels and the run makes {shape[1]}x{shape[0]}; crop and scale it to that size first"
                )
        return np.stack(found), None

    def _labels(self, space: Space, images: np.ndarray, known: np.ndarray | None) -> dict[str, np.ndarray]:
        """The conditions of every picture."""
        label, num = space.label, len(images)
        if not label or label in space.asked:
            return {k: np.asarray(v)[np.arange(num) % len(v)] for k, v in space.asked.items()}
        if self.labels == "given":
            if known is None:
                raise UserError(
                    f"{space.trained.run.path} is told labels, and {self.images} says none; give --labels=A,B,... (one a "
                    "picture), or --tool.labels=estimated"
                )
            return {label: known}
        if self.native:
            _, views = judged(space, self.native, images)
            return {label: views["logits"].argmax(-1).astype(space.exp.spec[label].dtype)}
        points = space.drawn(np.arange(self.draws), space.seed)
        _, nearest = nearest_rows(images, [(space.render(points), None)], 1)
        return {label: points.cond[label][nearest[:, 0]]}

    def _distance(self, space: Space, images: np.ndarray) -> tuple[Callable[[Any, Array], Array], Any]:
        """(features (frozen, pictures in [-1, 1]) -> [B, F], frozen): a distance is the sum of their squared differences."""
        if self.distance == "native":
            judge = features.native_judge(self.native)
            return lambda frozen, x: scaled(judge.see(frozen, x)["features"]), judge.frozen
        if self.distance == "lpips":
            if min(images.shape[1:3]) < 32 or images.shape[-1] not in (1, 3):
                raise UserError(
                    f"LPIPS sees pictures of 32x32 pixels at least in grey or colour, not {list(images.shape[1:])}; set "
                    "--tool.distance=l2"
                )
            frozen = features.borrow(Lpips("alex", self.lpips))
            return lambda frozen, x: frozen.model.features(frozen.weights, shrunk(x)), frozen
        return lambda frozen, x: scaled(x.reshape(len(x), -1)), {}

    def _projected(
        self, space: Space, see: Callable, frozen: Any, images: np.ndarray, cond: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """One batch."""
        exp, num = space.exp, len(images)
        size = exp.spread(num)
        rows = np.minimum(np.arange(size), num - 1)
        told = {k: v[rows].astype(exp.spec[k].dtype) for k, v in cond.items()}
        kinds, of = np.unique(np.stack([np.zeros(size), *told.values()], 1), axis=0, return_inverse=True)
        first = [int(np.argmax(of == i)) for i in range(len(kinds))]
        projector = Projector(
            space.picture, space.flat, space.name, self.iterations, self.rate, self.draws, self.jitter, self.whiteness,
            min(self.frames, self.iterations),
        )  # fmt: skip

        def run(w: Weights, given: tuple, rng: Array) -> dict[str, Array]:
            frozen, x, cond, kinds, settings = given
            method = holding(exp.method, {k: told.part for k, told in settings.items()})
            cond = conditions.read(exp.spec, cond, size)
            kinds = {**kinds, "cond": conditions.read(exp.spec, kinds["cond"], len(first))}
            return projector(method, w, lambda seen: see(frozen, seen), to_float(x), cond, kinds, rng)

        owner = ("latents", self, space.name, size, len(first))
        given = (
            frozen,
            images[rows],
            told,
            {"cond": {k: v[first] for k, v in told.items()}, "of": of.reshape(-1)},
            exp.settings,
        )
        found = exp.jit(owner, run)(space.weights, given, keys.named(keys.root(space.seed), "project"))
        cut = lambda k, v: v[:, :num] if k == "way" else v[:num]  # noqa: E731
        return {k: cut(k, np.asarray(v)) for k, v in jax.device_get(found).items()}

    def _figures(self, space: Space, images: np.ndarray, made: np.ndarray, distance: np.ndarray) -> dict[str, float]:
        """Root mean square errors of pixels in [0, 1], those of the nearest training pictures beside them where these are there."""

        def pixels(distances: np.ndarray) -> float:
            return float(np.mean(distances) / np.sqrt(images[0].size))

        error = np.linalg.norm((images.astype(np.float64) - made).reshape(len(made), -1) / 255.0, axis=1)
        found = {"error": pixels(error), f"distance_{self.distance}": float(distance.mean())}
        try:
            train = space.exp.open_source("train")
        except (UserError, OSError) as why:
            say(f"the nearest training pictures are left out: {why}")
            return found
        nearest, _ = nearest_rows(images, features.source_batches(train), 1)
        return {**found, "error_of_nearest_training_picture": pixels(nearest)}


def scaled(x: Array) -> Array:
    """[B, F] whose squared distances are means instead of sums."""
    return x / np.sqrt(x.shape[-1])


def shrunk(x: Array) -> Array:
    """Pictures beyond 256 pixels, halved until they are not."""
    while min(x.shape[1:3]) > 256 and x.shape[1] % 2 == x.shape[2] % 2 == 0:
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
    return x
