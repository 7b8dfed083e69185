"""A config turned into objects: data, method, mesh, shardings and the compiled functions that train, evaluate and sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core import parallel
from jaxgen.config import registry
from jaxgen.config.files import FEED, GIVEN, Feed
from jaxgen.data.pipeline import eval_batches
from jaxgen.data.sources import Info, Source
from jaxgen.errors import UserError
from jaxgen.core.method import Batch, Borrowed, Borrows, Inherits, Method, Metrics, Samples
from jaxgen.core.state import Array, PyTree, TrainState, Weights


def open_source(config: ConfigDict, split: str) -> Source:
    """The data set of a config: split is "train" or "eval" (held out)."""
    spec = {k: v for k, v in config.data.to_dict().items() if k not in FEED}
    source = registry.build("source", spec, where="config.data").open(split)
    if config.data.labels and not source.info.classes:
        raise UserError(f"config.data.labels=True but {spec['name']} has no labels; set config.data.labels=False")
    return source


def feed(config: ConfigDict) -> Feed:
    """The reading options of a config."""
    return Feed(**{k: v for k, v in config.data.to_dict().items() if k in FEED})


def abstract_batch(info: Info, labels: bool, num: int) -> Batch:
    """Shapes and dtypes of a batch of so many images."""
    spec = {"image": jax.ShapeDtypeStruct((num, *info.shape), jnp.uint8)}
    return spec | ({"label": jax.ShapeDtypeStruct((num,), jnp.int32)} if labels else {})


def build_method(config: ConfigDict, info: Info) -> Method:
    """The method, told the image shape, the number of labels, the batch and the length of the run."""
    classes = info.classes if config.data.labels else 0
    known = (tuple(info.shape), classes, config.data.batch, config.steps)
    return registry.build("method", config.method.to_dict(), dict(zip(GIVEN, known, strict=True)), "config.method")


@dataclass(frozen=True)
class Experiment:
    """What a config means once the data's shape and labels are known. Nothing here changes."""

    config: ConfigDict
    info: Info
    mesh: Mesh

    def __post_init__(self) -> None:
        shards, updates = parallel.batch_devices(self.mesh), getattr(self.method, "microbatches", 1)
        if self.config.data.batch % (shards * updates):
            parts = f"{shards} devices" + (f" x {updates} microbatches" if updates > 1 else "")
            fitting = max(1, self.config.data.batch // (shards * updates)) * shards * updates
            raise UserError(f"config.data.batch={self.config.data.batch} is not divisible by {parts}; try {fitting}")
        told, heard = sum(getattr(a, "labels", 0) for a in self.augments), getattr(self.method, "augment_labels", 0)
        if told not in (0, heard):
            raise UserError(
                f"config.data.augment describes what it did in {told} numbers, and the method hears {heard}; set "
                f"method.net.augment={told} of a ddpmpp, ncsnpp or adm net (methods diffusion, meanflow), or augment otherwise"
            )
        self.check(self.borrowed)

    @staticmethod
    def open(config: ConfigDict, info: Info) -> "Experiment":
        """With a mesh over all devices."""
        return Experiment(config, info, parallel.make_mesh(config.mesh.to_dict()))

    @cached_property
    def feed(self) -> Feed:
        """The reading options."""
        return feed(self.config)

    @cached_property
    def method(self) -> Method:
        """What is trained."""
        return build_method(self.config, self.info)

    @cached_property
    def borrowed(self) -> dict[str, Borrowed]:
        """The other runs that the method needs, by name."""
        return self.method.borrows() if isinstance(self.method, Borrows) else {}

    def check(self, runs: dict[str, Borrowed]) -> None:
        """A UserError unless those runs are there, and know such images and labels."""
        classes = self.info.classes if self.feed.labels else 0
        for name, run in runs.items():
            run.check(name, self.info.shape, classes)
            if isinstance(self.method, Borrows):
                self.method.accept(name, run.method)

    @cached_property
    def augments(self) -> tuple:
        """Device-side augmentations."""
        specs = enumerate(self.feed.augment)
        return tuple(registry.build("augment", s, where=f"config.data.augment[{i}]") for i, s in specs)

    @cached_property
    def transforms(self) -> tuple:
        """Host-side augmentations."""
        specs = enumerate(self.feed.transforms)
        return tuple(registry.build("transform", s, where=f"config.data.transforms[{i}]") for i, s in specs)

    @property
    def batch(self) -> int:
        """Images that one step reads: the batch of one update times the updates of a step (n_critic)."""
        return self.feed.batch * getattr(self.method, "batches_per_step", 1)

    def spec(self, num: int) -> Batch:
        """An abstract batch."""
        return abstract_batch(self.info, self.feed.labels, num)

    @cached_property
    def root(self) -> Array:
        """The key from which every other key is folded."""
        return jax.random.key(self.config.seed)

    @cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; what is borrowed is whole on every device."""
        shapes = jax.eval_shape(self.method.init, self.root, self.spec(self.feed.batch))
        places = parallel.shardings(self.mesh, shapes, self.config.sharding)
        shapes = shapes.replace(frozen={name: run.abstract for name, run in self.borrowed.items()})
        places = places.replace(frozen=jax.tree.map(lambda _: parallel.replicated(self.mesh), shapes.frozen))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)

    @cached_property
    def shardings(self) -> PyTree:
        """NamedShardings of the state."""
        return jax.tree.map(lambda x: x.sharding, self.abstract)

    def init(self) -> TrainState:
        """A fresh state, born sharded; a method that inherits starts from other runs' weights."""
        heir = self.method if isinstance(self.method, Inherits) else None
        left = heir.inherits() if heir else {}
        self.check(left)

        def fresh(rng: Array, frozen: dict[str, Weights], left: dict[str, Weights]) -> TrainState:
            blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.spec(self.feed.batch))
            state = self.method.init(rng, blank).replace(frozen=frozen)
            return heir.inherit(state, left) if heir else state

        # It runs once: XLA's CPU backend spends most of its time on optimising each random draw.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        program = jax.jit(fresh, out_shardings=self.shardings, compiler_options=options)
        return program(jax.random.fold_in(self.root, 0), self.read(self.borrowed), self.read(left))

    def read(self, runs: dict[str, Borrowed]) -> dict[str, Weights]:
        """Their weights, on every device."""
        return {name: run.load(self.mesh) for name, run in runs.items()}

    def lend(self, state: TrainState) -> TrainState:
        """A restored state with the borrowed weights, which checkpoints do not hold."""
        return state.replace(frozen=self.read(self.borrowed))

    def step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Augment and take one training step; the key depends on the run's seed and the step alone."""
        rng = jax.random.fold_in(rng, state.step)
        for i, augment in enumerate(self.augments):
            batch = augment(batch, jax.random.fold_in(jax.random.fold_in(rng, 1), i))
        places = self.shardings.nets
        nets = {
            k: n.replace(
                params=parallel.gather(n.params, places[k].params), vars=parallel.gather(n.vars, places[k].vars)
            )
            for k, n in state.nets.items()
        }
        return self.method.train_step(state.replace(nets=nets), batch, jax.random.fold_in(rng, 0))

    def compile_steps(self, num: int, data: dict[str, Any] | None) -> Any:
        """The compiled program `(state, batches, data, rng) -> (state, metrics [num])` of `num` steps in one dispatch.

        With `data` (the whole set, on every device) `batches` are int32 indices [num, B]; without, images [num, B, ...].
        """
        spread = parallel.batch_sharding(self.mesh, leading=1)

        def steps(state: TrainState, batches: PyTree, data: PyTree, rng: Array) -> tuple[TrainState, Metrics]:
            def one(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
                if data:
                    batch = {k: v[batch] for k, v in data.items()}
                    batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(self.mesh))
                return self.step(state, batch, rng)

            if num == 1:
                state, metrics = one(state, jax.tree.map(lambda x: x[0], batches))
                return state, jax.tree.map(lambda m: m[None], metrics)
            return jax.lax.scan(one, state, batches)

        if data:
            batches = jax.ShapeDtypeStruct((num, self.batch), jnp.int32)
        else:
            batches = jax.tree.map(lambda s: jax.ShapeDtypeStruct((num, *s.shape), s.dtype), self.spec(self.batch))
        places = (self.shardings, spread, parallel.replicated(self.mesh), parallel.replicated(self.mesh))
        program = jax.jit(
            steps, donate_argnums=0, in_shardings=places, out_shardings=(self.shardings, parallel.replicated(self.mesh))
        )
        return program.lower(self.abstract, batches, data or {}, self.root).compile()

    @cached_property
    def is_finite(self) -> Callable[[TrainState], Array]:
        """state -> bool []: no NaN or infinity among the trained parameters."""

        def finite(state: TrainState) -> Array:
            leaves = jax.tree.leaves({k: n.params for k, n in state.nets.items()})
            return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves]))

        return jax.jit(finite, out_shardings=parallel.replicated(self.mesh))

    @cached_property
    def compiled(self) -> dict[Any, Callable]:
        """Evaluation programs by name, so that each is compiled once per run."""
        return {}

    def jit(self, name: Any, function: Callable) -> Callable:
        """`function(weights, batch, rng)`, jitted once under `name`; what it returns is gathered on every device."""

        def whole(w: Weights, batch: Batch, rng: Array) -> PyTree:
            return function(w.replace(nets=parallel.gather(w.nets, self.shardings.view().nets)), batch, rng)

        if name not in self.compiled:
            self.compiled[name] = jax.jit(whole, out_shardings=parallel.replicated(self.mesh))
        return self.compiled[name]

    def held_out(self, source: Source, num: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """(batch on the devices, mask [B] on the host): one pass in order, the last batch padded."""
        batches = eval_batches(source, self.feed.batch, num, jax.process_index(), jax.process_count())
        keys = [*self.spec(1), "mask"]
        for batch in batches:
            placed = parallel.put_batch(self.mesh, {k: batch[k] for k in keys})
            mask = parallel.to_host(placed.pop("mask"))
            yield placed, mask

    def labels(self, num: int) -> np.ndarray:
        """The labels asked for in grids and sample sets: 0, 1, ..., classes - 1, 0, ..."""
        return np.arange(num, dtype=np.int32) % max(1, self.info.classes)

    def sample(self, w: Weights, num: int, seed: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
        """float32 [num, H, W, C] on every host, made batch by batch on all devices."""
        return np.concatenate([images for images, _ in self.samples(w, num, seed, labels)])

    def samples(
        self, w: Weights, num: int, seed: int = 0, labels: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """`sample` in batches (images, the labels asked for), so that any number needs the memory of one batch."""
        if not isinstance(self.method, Samples):
            raise UserError(
                f"method {self.config.method.name} cannot sample by itself: it needs a prior over its codes"
            )
        shards = parallel.batch_devices(self.mesh)
        size = min(self.feed.batch, -(-num // shards) * shards)
        wanted = self.labels(num) if labels is None else np.asarray(labels, np.int32)
        root = jax.random.fold_in(jax.random.key(seed), 2)
        program = self.sampler(size)
        for i, start in enumerate(range(0, num, size)):
            cond, part = {}, None
            if self.feed.labels:
                part = np.resize(wanted[start : start + size], size)  # the last batch is padded by repetition
                share = size // jax.process_count()
                mine = part[jax.process_index() * share : (jax.process_index() + 1) * share]
                cond = parallel.put_batch(self.mesh, {"label": mine})
            left = num - start
            images = jax.device_get(program(w, cond, jax.random.fold_in(root, i)))
            yield images[:left], None if part is None else part[:left]

    def sampler(self, num: int) -> Callable[[Weights, Batch, Array], Array]:
        """(weights, cond, rng) -> [num, H, W, C]: every device makes its share, then all have all."""

        def make(w: Weights, cond: Batch, rng: Array) -> Array:
            images = self.method.sample(w, rng, num, cond)
            return jax.lax.with_sharding_constraint(images, parallel.batch_sharding(self.mesh))

        return self.jit(("sample", num), make)
