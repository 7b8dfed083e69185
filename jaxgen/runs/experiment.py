"""A config turned into objects: data, tasks, method, mesh, shardings and the compiled functions that train, evaluate, sample."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.config import registry
from jaxgen.config.files import FEED, Feed, find, override, places, plain, span, to_json
from jaxgen.core import conditions, keys, parallel
from jaxgen.core.inputs import Input, holding
from jaxgen.core.layout import Layout
from jaxgen.core.lender import Frozen, Loan, weights_hash
from jaxgen.core.method import Borrows, Describes, Encodes, Inherits, Method, Metrics, Refuses, Samples, Settles, Tunes
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, given
from jaxgen.core.state import Array, NetState, PyTree, TrainState, Variables, Weights
from jaxgen.core.task import Asks, Batch, Measures, Task, is_cached
from jaxgen.core.text import STATES, CachedStates, kept_in, told_by
from jaxgen.data.pipeline import eval_batches, share
from jaxgen.data.prompts import weights
from jaxgen.data.sources import OnLevels, Source, Templated, Tokenized
from jaxgen.data.sources.tokenized import CAPTIONS, every_caption
from jaxgen.data.tokenize import NoTokenizer, Tokenizer
from jaxgen.errors import NotFinite, UserError
from jaxgen.images import beside, to_uint8
from jaxgen.runs.setup import keeps_barriers


class Programs(dict[Hashable, Callable]):
    """Compiled programs by their owner."""


TOKENIZERS = ("tokenizer", "tokenizer2", "tokenizer3", "tokenizer4")  # folders of copies of their files
OPEN: dict[tuple, "Experiment"] = {}  # the last few
SHARED: WeakValueDictionary[tuple, Programs] = WeakValueDictionary()  # those of all experiments that are open


def open_source(config: ConfigDict, split: str, kept: Path | None = None) -> Source:
    """The data set of a config: split is "train" or "eval" (held out); `kept`: where copies of its tokenizers' files are."""
    source = _as_told(config, split)
    if not (tokenizers := build_tokenizers(config, kept)):
        return source
    if any(one.open for one in tokenizers):
        texts = every_caption(_as_told(config, "train"), config.data.name)
        texts = [text for several in texts for text in several]
        tokenizers = tuple(one.learned(texts) if one.open else one for one in tokenizers)
    return Tokenized(source, tokenizers, config.data.name)


def _as_told(config: ConfigDict, split: str) -> Source:
    """That data set, its captions as texts."""
    spec = {k: v for k, v in config.data.to_dict().items() if k not in FEED}
    source = registry.build("source", spec, where="config.data").open(split)
    source = OnLevels(source, config.data.levels) if config.data.levels else source
    source = Templated(source, config.data.templates, spec["name"]) if config.data.templates else source
    if config.data.labels and not source.spec.label:
        why = "".join(f" ({note})" for note in source.notes if note.startswith("labels: "))
        raise UserError(f"config.data.labels=True but {spec['name']} has no labels{why}; set {_unlabelled(config)}")
    if hasattr(source, "pictures"):
        _refuse_stale(source, config, split)
    return source


def pictures_of(config: ConfigDict, source: Source) -> ConfigDict:
    """A config whose data are the pictures that cached latents are of."""
    config = config.copy_and_resolve_references().unlock()
    config.data = {**{k: config.data[k] for k in FEED}, **source.pictures}
    return config


def _refuse_stale(source: Source, config: ConfigDict, split: str) -> None:
    """A UserError where the pictures of cached latents are there and are others now."""
    try:
        now = _as_told(pictures_of(config, source), split)
    except UserError:  # gone, or on another machine
        return
    if now.fingerprint() != source.told["pictures"]:
        raise UserError(
            f"the latents of {config.data.path} are of other pictures than {source.pictures['name']} holds now; delete them, and "
            "cache them anew by --mode=cache"
        )


def build_tokenizers(config: ConfigDict, kept: Path | None = None) -> tuple[Tokenizer, ...]:
    """Those of a config, with their files in `kept` where they are there; (): captions are not told."""
    built = registry.build("tokenizer", plain(config.data.tokenizer), where="config.data.tokenizer")
    built = built if isinstance(built, tuple) else (built,)
    if len(built) > len(CAPTIONS) or (len(built) > 1 and any(isinstance(one, NoTokenizer) for one in built)):
        raise UserError(
            f"config.data.tokenizer names {len(built)} tokenizers: of several there are at most {len(CAPTIONS)}, and none may be "
            'none; set config.data.tokenizer=none, or "config.data.tokenizer=(dict(name=...), ...)"'
        )
    if isinstance(built[0], NoTokenizer):
        return ()
    return tuple(one.kept_in(kept / name) for one, name in zip(built, TOKENIZERS, strict=False)) if kept else built


def _unlabelled(config: ConfigDict) -> str:
    """How a config does without labels: what guides by them goes too."""
    guided = config.method.get("guide", {"name": "none"})["name"] != "none"
    return "--config.data.labels=False" + (" --config.method.guide=none" if guided else "")


def _indivisible(config: ConfigDict, shards: int, updates: int) -> str:
    """What is wrong with a batch, and the ways out: as near a batch as fits, or this one on fewer devices and in fewer parts."""
    batch = config.data.batch
    parts = f"{shards} devices" + (f" x {updates} microbatches" if updates > 1 else "")
    cures = [f"--config.data.batch={max(1, batch // (shards * updates)) * shards * updates}"]
    used = next(n for n in range(shards, 0, -1) if batch % n == 0) if list(config.mesh) == ["data"] else shards
    if batch % used == 0:
        kept = [f"--config.mesh.data={used}"] if used < shards else []
        fewer = math.gcd(batch // used, updates)
        cures.append(" ".join(kept + ([f"--config.method.microbatches={fewer}"] if fewer < updates else [])))
    return f"config.data.batch={batch} is not divisible by {parts}; set {', or '.join(cures)}"


def _beyond(config: ConfigDict, batches: int, examples: int, shards: int) -> str:
    """What is wrong with a step that shows D an image twice, and the ways out: smaller batches, or fewer."""
    batch = config.data.batch
    cures = [f"--config.data.batch={less}"] if (less := examples // batches // shards * shards) else []
    cures += [f"--config.method.n_critic={max(1, examples // batch)}"]
    return (
        f"config.method.n_critic={batches} times config.data.batch={batch} is more than the {examples} examples of the data; "
        f"set {', or '.join(cures)}"
    )


def restores(config: ConfigDict) -> bool:
    """Whether samples are of pictures of which something is told to a restorer."""
    return config.method.get("restorer", {"name": "none"})["name"] != "none"


def untaught(config: ConfigDict) -> list[str]:
    """The tasks that a method undoes without having learned to: no net is told of them, and they may come after training."""
    if getattr(registry.lookup("method", config.method.name, "config.method"), "completes", False):
        return [name for name in config.get("tasks", {}) if name == "hide"]
    linear = [name for name in config.get("tasks", {}) if hasattr(task_class(config, name), "linear")]
    return linear if restores(config) else []


def taught(config: ConfigDict) -> ConfigDict:
    """What of a config training depends on: it knows neither a restorer nor what that is told."""
    changed = config.copy_and_resolve_references().unlock()
    changed.tasks = {name: task for name, task in config.get("tasks", {}).items() if name not in untaught(config)}
    changed.method = {key: part for key, part in config.method.items() if key != "restorer"}
    return changed


def build_method(config: ConfigDict, spec: Spec, kept: Path | None = None, measures: Measures | None = None) -> Method:
    """The method of a config for batches of that Spec; `kept`: where copies of its encoders of text may be.

    measures: the task that it undoes without having learned to.
    """
    facts = {**given(spec, config.data.batch, config.steps, span(config)), "measures": measures}
    if not (text := config.method.get("text_encoder")):
        return registry.build("method", config.method.to_dict(), facts, "config.method")
    encoders = registry.build("text_encoder", plain(text), where="config.method.text_encoder")
    encoders = kept_in(encoders, kept) if kept else encoders
    facts["conditions"] = told_by(encoders, spec).conditions  # nets are told what these make of a text
    return replace(registry.build("method", plain(config.method), facts, "config.method"), text_encoder=encoders)


def in_rows(config: ConfigDict, data: Spec) -> Spec:
    """A Spec of data whose texts have as many rows as the config's tokenizers say."""
    told = plain(config.data.tokenizer)
    for name, one in zip(CAPTIONS, told if isinstance(told, tuple) else (told,), strict=False):
        if name in data.of("tokens", "captions") and one["name"] != "none":
            several = data[name].shape[:1] if data[name].kind == "captions" else ()
            shape = (*several, *([one["chunks"]] if one["chunks"] > 1 else []), data[name].shape[-1])
            data = Spec({**data, name: replace(data[name], shape=shape)})
    return data


def without_states(config: ConfigDict) -> ConfigDict:
    """A config whose texts are encoded when they are needed, whatever was cached of them for training."""
    changes = {f"{path}.cache": "" for path in places(config, "method.text_encoder")}
    return override(config, changes) if any(find(plain(config), path) for path in changes) else config


class Stage(NamedTuple):
    """A task and the Specs before and after it."""

    before: Spec
    task: Task
    after: Spec

    @property
    def adds(self) -> set[str]:
        """The names of the fields that are new after it."""
        return set(self.after.keys() - self.before.keys())


def read_spec(config: ConfigDict, data: Spec) -> Spec:
    """The fields that are read and go to the devices: labels only where the run is told them, text only as tokens."""
    wanted = {"text": False, "label": config.data.labels}
    return data.where(lambda _, field: wanted.get(field.kind, True))


def task_names(config: ConfigDict) -> list[str]:
    """The tasks of a config in the order in which they see a batch: those that replace the target (codecs) come last."""

    return sorted(config.tasks, key=lambda name: (task_class(config, name).last, name))


def task_class(config: ConfigDict, name: str) -> type[Task]:
    """Of that task of a config."""
    return registry.lookup("task", config.tasks[name].get("name", name), f"config.tasks.{name}")


def stages(config: ConfigDict, data: Spec, kept: Path | None) -> tuple[Stage, ...]:
    """Augmentations and tasks in the order in which they see a batch of that Spec; `kept`: where copies of lent runs are."""
    parts = [("augment", s, f"config.data.augment[{i}]") for i, s in enumerate(config.data.augment)]
    parts += [("task", {"name": k, **config.tasks[k].to_dict()}, f"config.tasks.{k}") for k in task_names(config)]
    found, spec = [], conditions.with_one_caption(read_spec(config, data))
    moved = [part if isinstance(part, str) else part["name"] for part in config.data.augment]
    moved = [*(name for name in moved if name != "flip"), *map(str, config.data.transforms)]
    if moved and is_cached(spec):
        raise UserError(
            f"the data are latents, which {moved[0]} cannot move as it moves pictures; set config.data.augment=() "
            "config.data.transforms=()"
        )
    for table, part, where in parts:
        task = registry.build(table, part, where=where)
        task = task.kept_in(kept) if kept else task
        found.append(Stage(spec, task, task.spec(spec)))
        spec = found[-1].after
    return tuple(found)


def method_spec(config: ConfigDict, data: Spec, kept: Path | None) -> Spec:
    """Of the batches that the method sees."""
    told = conditions.with_one_caption(read_spec(config, data))
    return next((stage.after for stage in reversed(stages(config, data, kept))), told)


class BrokenSamples(NotFinite):
    """Samples that are NaN or infinite."""


class Made(NamedTuple):
    """A batch of samples, on the host."""

    images: np.ndarray  # [n, H, W, C] as the data are, float32 in [-1, 1] (uint8 where `Trained` makes them)
    cond: dict[str, np.ndarray]  # what was asked for
    data: dict[str, np.ndarray]  # the examples that the conditions came from; {} if from none

    def first(self, num: int) -> "Made":
        """No more than so many."""
        return jax.tree.map(lambda x: x[:num], self)

    @staticmethod
    def joined(batches: Iterable["Made"]) -> "Made":
        """All of them as one."""
        return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


@dataclass(frozen=True)
class Experiment:
    """What a config means once the data's Spec is known. Nothing here changes."""

    config: ConfigDict
    data: Spec  # of the source
    mesh: Mesh
    kept: Path | None = None  # where copies of the runs lie that its tasks need

    def __post_init__(self) -> None:
        if (kind := self.spec[self.spec.target].kind) not in self.method.makes:
            raise UserError(
                f"config.method {self.config.method.name} makes {', '.join(self.method.makes)}, not {kind}; choose another method "
                f"or task for the target {self.spec.target!r}"
            )
        for name, field in self.told.conditions.items():
            if field.kind not in self.method.takes:
                takes = ", ".join(self.method.takes) or "no condition"
                raise UserError(
                    f"config.method {self.config.method.name} cannot be told {name!r} ({field.kind}): it takes {takes}; "
                    f"{self._without(name)}"
                )
        if not self.weighs and any(field.end >= 0 and len(field.shape) > 1 for field in self.spec.values()):
            raise UserError(
                f"config.method {self.config.method.name} reads one row of tokens; set config.data.tokenizer.chunks=1"
            )
        self.examine(self.loans)

    def _without(self, name: str) -> str:
        """How a condition is left out: by what adds it."""
        if self.spec[name].kind == "label":
            return f"set {_unlabelled(self.config)}"
        if name in self.read_spec.of("tokens", "captions"):
            return "set config.data.tokenizer=none"
        augments = self.config.data.augment
        adds = [i for i, stage in enumerate(self.stages) if name in stage.adds]
        if not adds:
            return "choose another net"
        if adds[0] < len(augments):
            return f"set config.data.augment={augments[: adds[0]] + augments[adds[0] + 1 :]}"
        return f"set config.tasks.{task_names(self.config)[adds[0] - len(augments)]}=None"

    @staticmethod
    def open(config: ConfigDict, data: Spec, kept: Path | None = None) -> "Experiment":
        """With a mesh over all devices. One that is open already is given again, with what it has compiled."""
        key = (to_json(config), data, kept if config.tasks or config.method.get("text_encoder") else None)
        exp = OPEN.pop(key, None) or Experiment(config, data, parallel.make_mesh(config.mesh.to_dict()), kept)
        if not exp.loans:  # a run that is lent may have gone on since
            OPEN[key] = exp
        while len(OPEN) > 4:
            OPEN.pop(next(iter(OPEN)))
        return exp

    @cached_property
    def feed(self) -> Feed:
        """The reading options."""
        return Feed(**{k: v for k, v in self.config.data.to_dict().items() if k in FEED})

    @cached_property
    def read_spec(self) -> Spec:
        """Of the batches that are read."""
        return read_spec(self.config, self.data)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Augmentations and tasks."""
        return stages(self.config, self.data, self.kept)

    @cached_property
    def spec(self) -> Spec:
        """Of the batches that the method sees."""
        return self.stages[-1].after if self.stages else conditions.with_one_caption(self.read_spec)

    @property
    def made(self) -> str:
        """The field of the data that samples are of."""
        return self.spec.target if self.spec.target in self.data else self.data.target

    @cached_property
    def method(self) -> Method:
        """What is trained."""
        return build_method(self.config, self.told, self.kept, self.restored.task if self.restored else None)

    @cached_property
    def restored(self) -> Stage | None:
        """The task that the method's restorer undoes."""
        if not restores(self.config) or not (names := untaught(self.config)):
            return None
        if len(names) > 1:
            more = " ".join(f"--config.tasks.{name}=None" for name in names[1:])
            raise UserError(f"config.method.restorer undoes one task, and there are {', '.join(names)}; set {more}")
        return self.stages[len(self.config.data.augment) + task_names(self.config).index(names[0])]

    @cached_property
    def told(self) -> Spec:
        """Of what the method's nets see: all of a batch but what its restorer sees."""
        aside = self.restored.adds if self.restored else ()
        return self.spec.where(lambda name, _: name not in aside)

    @cached_property
    def from_data(self) -> list[str]:
        """Conditions that only an example can give when sampling: pictures and the like, not labels or augmentations."""
        aside = {name for stage in self.stages if not stage.task.always for name in stage.adds}

        def known(field: Field) -> bool:  # without an example
            return field.kind == "label" or (field.kind == "embedding" and bool(field.empty))

        return [name for name, field in self.spec.conditions.items() if not known(field) and name not in aside]

    @cached_property
    def tokenizers(self) -> tuple[Tokenizer, ...]:
        """What makes tokens of texts; (): the run is told none. Of cached latents those of their pictures, which are opened."""
        built = build_tokenizers(self.config, self.kept)
        if not built and is_cached(self.data) and self.read_spec.conditions.of("tokens", "captions"):
            return self.open_pictures("train").tokenizers
        return self.open_source("train").tokenizers if any(one.open for one in built) else built

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first of them; None: the run is told no text."""
        return next(iter(self.tokenizers), None)

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Texts as the conditions that tell them: int32 [N, L] of each tokenizer."""
        return {name: one.encode(texts) for name, one in zip(CAPTIONS, self.tokenizers, strict=False)}

    @property
    def weighs(self) -> bool:
        """Whether a text may have several rows, and its words weights when it is asked for."""
        return getattr(self.method, "weighs", False)

    def words(self, prompts: Sequence[str]) -> list[str]:
        """What is asked for without its weights, where there may be any; else brackets are words like others."""
        return [weights(prompt)[0] if self.weighs else prompt for prompt in prompts]

    def prompts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The same of texts whose words may have weights."""
        if not self.weighs:
            return self.tokens(texts)
        return {name: one.encode_prompts(texts) for name, one in zip(CAPTIONS, self.tokenizers, strict=False)}

    @cached_property
    def loans(self) -> dict[str, Loan]:
        """The frozen models that method and tasks work with, by name."""
        mine = self.method.loans() if isinstance(self.method, Borrows) else {}
        return {**mine, **{name: loan for stage in self.stages for name, loan in stage.task.loans().items()}}

    def examine(self, loans: dict[str, Loan]) -> None:
        """A UserError unless those lenders are there and can serve in their roles; tasks have seen to their own."""
        tasks = {name for stage in self.stages for name in stage.task.loans()}
        for name, (lender, role, key) in loans.items():
            if name not in tasks:
                lender.check(f"config.{key or f'method.{name}'}", role, self.spec, self.method)

    @cached_property
    def transforms(self) -> tuple:
        """Host-side augmentations."""
        specs = enumerate(self.feed.transforms)
        return tuple(registry.build("transform", s, where=f"config.data.transforms[{i}]") for i, s in specs)

    @property
    def batch(self) -> int:
        """Examples that one step reads: the batch of one update times the updates of a step (n_critic)."""
        return self.feed.batch * getattr(self.method, "batches_per_step", 1)

    def spread(self, num: int) -> int:
        """`num` rounded up so that all devices have as many.

        What is looked at or made outside of training is the same on any number of devices: batches are those of the config,
        filled up, and what was filled up is cut off again.
        """
        shards = parallel.batch_devices(self.mesh)
        return -(-num // shards) * shards

    def refuse_batch(self, examples: int | None = None) -> None:
        """A UserError unless the devices can share a batch of training, and a step's batches are of that many examples."""
        shards, updates = parallel.batch_devices(self.mesh), getattr(self.method, "microbatches", 1)
        if self.feed.batch % (shards * updates):
            raise UserError(_indivisible(self.config, shards, updates))
        if examples is not None and self.batch > max(examples, self.feed.batch):
            raise UserError(_beyond(self.config, self.batch // self.feed.batch, examples, shards))

    def refuse_new_texts(self, source: Source) -> None:
        """A UserError unless the states that were cached are of all captions of the data."""
        for lender in self.cached_texts.values():
            lender.refuse_new(source.distinct(lender.text))

    def settle(self, source: Source, num: int = 2048) -> dict[str, Any]:
        """Changes to the config that tasks find out of the first `num` examples of the data; {} where nothing is open.

        Latents that were cached by another codec are a UserError.
        """
        found, frozen = {}, self.frozen()
        hashes = {weights_hash(lent.weights) for lent in frozen.values()} if hasattr(source, "codec") else ()
        if hashes and source.codec not in hashes:
            raise UserError(
                f"the latents of {self.config.data.path} are of another codec than config.tasks.codec.run; cache them anew "
                "(--mode=cache), or name that codec"
            )
        num = min(num, len(source)) // self.feed.batch * self.feed.batch  # whole batches: padding would count
        for i, name in enumerate(task_names(self.config), len(self.feed.augment)):
            seen = jax.jit(lambda frozen, batch, rng, i=i: self.see(frozen, self.own(batch), rng, stages=i))
            batches = (seen(frozen, batch, self.root) for batch, _ in self.held_out(source, num))
            before, task, _ = self.stages[i]
            found |= {f"tasks.{name}.{k}": v for k, v in task.settle(before, frozen, batches, source).items()}
        return found

    def see(
        self, frozen: dict[str, Frozen], batch: Batch, rng: Array, train: bool = False, stages: int | None = None
    ) -> Batch:
        """A batch of the data as the method (or the task after the first so many) sees it; augmentations are for training."""
        if self.read_spec.of("captions"):
            batch = conditions.one_caption(self.read_spec, batch, keys.named(rng, "caption"))
        for i, (before, task, _) in enumerate(self.stages[:stages]):
            if train or task.always:
                batch = task(before, frozen, batch, keys.named(rng, "task", i))
        return batch

    def show(self, frozen: dict[str, Frozen], x: Array, cond: Batch | None = None) -> Array:
        """Samples of the method as samples of the data: what the tasks did is undone, and what `cond` says of them put back."""
        for stage in reversed(self.stages):
            x = stage.task.undo(frozen, x)
            if cond and isinstance(stage.task, Asks) and stage.adds <= cond.keys():
                x = stage.task.finish(cond, x)
        return x

    @cached_property
    def root(self) -> Array:
        """The key from which every other key is derived, by the name of its use."""
        return keys.root(self.config.seed)

    @cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        shapes = jax.eval_shape(self.method.init, self.root, self.spec.abstract(self.feed.batch))
        shapes = shapes.replace(frozen={name: loan.lender.abstract for name, loan in self.loans.items()})
        places = parallel.shardings(self.mesh, shapes, self.config.sharding)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)

    @cached_property
    def shardings(self) -> PyTree:
        """NamedShardings of the state."""
        return jax.tree.map(lambda x: x.sharding, self.abstract)

    def init(self) -> TrainState:
        """A fresh state, born sharded; a method that inherits starts from other runs' weights."""
        self.refuse_batch()
        heir = self.method if isinstance(self.method, Inherits) else None
        left = heir.inherits() if heir else {}
        self.examine(left)
        lent = {k: loan.lender.load(parallel.everywhere(self.mesh, loan.lender.abstract)) for k, loan in left.items()}

        def fresh(rng: Array, frozen: dict[str, Frozen], lent: dict[str, Frozen]) -> TrainState:
            blank = {k: jnp.zeros(s.shape, s.dtype) for k, s in self.spec.abstract(self.feed.batch).items()}
            state = self.method.init(rng, blank).replace(frozen=frozen)
            return heir.inherit(state, lent) if heir else state

        if "init" not in self.compiled:
            # It runs once: XLA's CPU backend spends most of its time on optimising each random draw.
            options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
            self.compiled["init"] = jax.jit(fresh, out_shardings=self.shardings, compiler_options=options)
        return self.compiled["init"](keys.named(self.root, "init"), self.frozen(), lent)

    def frozen(self) -> dict[str, Frozen]:
        """The frozen models' weights, read from where they are."""
        found = {name: loan.lender.load(self.shardings.frozen[name]) for name, loan in self.loans.items()}
        for name, lender in self.cached_texts.items():
            lender.refuse_other(found[name])
        return found

    @cached_property
    def cached_texts(self) -> dict[str, CachedStates]:
        """Encoder of text -> what was cached of it."""
        return {k.removesuffix(STATES): loan.lender for k, loan in self.loans.items() if k.endswith(STATES)}

    def lend(self, state: TrainState) -> TrainState:
        """A restored state with the frozen models, which checkpoints do not hold."""
        return state.replace(frozen=self.frozen())

    def whole(self, state: TrainState | Weights, places: PyTree) -> Any:
        """Inside jit: what a net works with, whole on every device; optimizer and averages stay where they are."""

        def gathered(net: NetState | Variables, place: Any) -> NetState | Variables:
            if isinstance(net, dict):
                return parallel.gather(net, place)
            return net.replace(
                params=parallel.gather(net.params, place.params), vars=parallel.gather(net.vars, place.vars)
            )

        nets = {k: gathered(net, places.nets[k]) for k, net in state.nets.items()}
        return state.replace(nets=nets, frozen=parallel.gather(state.frozen, places.frozen))

    def step(self, state: TrainState, batch: Batch, root: Array) -> tuple[TrainState, Metrics]:
        """Tasks and one training step; the keys depend on the run's seed and the step alone."""
        kept = state.frozen
        state = self.whole(state, self.shardings)
        batch = self.see(state.frozen, batch, keys.named(root, "tasks", state.step), train=True)
        with parallel.spreading(self.mesh):
            state, metrics = self.method.train_step(state, batch, keys.named(root, "train", state.step))
        return state.replace(frozen=kept), metrics

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """Of the nets that a CPU holds whole: while they train, their many small arrays are a few long vectors.

        A CPU's compiler takes as long for a bias as for a kernel, and for each of its moments and averages anew.
        """
        if jax.default_backend() != "cpu" or not keeps_barriers():
            return {}
        own = getattr(self.method, "players", {})  # several nets of one config
        nets = {name: own.get(name, getattr(self.method, name, None)) for name in self.abstract.nets}
        alike = {name: net.alike for name, net in nets.items() if isinstance(net, Net) and net.alike}
        states = {name: self.abstract.nets[name] for name in alike}
        whole = {k: all(x.sharding.is_fully_replicated for x in jax.tree.leaves(net)) for k, net in states.items()}
        return {k: Layout.of(net.params, alike[k]) for k, net in states.items() if whole[k]}

    def join(self, state: TrainState) -> TrainState:
        """Inside jit: the state with all nets in their layouts."""
        return state.replace(nets={**state.nets, **{k: v.joined(state.nets[k]) for k, v in self.layouts.items()}})

    def apart(self, state: TrainState) -> TrainState:
        """Inside jit: the inverse, as a step takes it."""
        return state.replace(nets={**state.nets, **{k: v.apart(state.nets[k]) for k, v in self.layouts.items()}})

    def compile_steps(self, num: int, data: dict[str, Any] | None) -> Any:
        """The compiled program `(state, batches, data, root) -> (state, metrics [num])` of `num` steps in one dispatch.

        With `data` (the whole set, on every device) `batches` are int32 indices [num, B], of several sets [num, B, sets];
        without, fields [num, B, ...].
        """
        self.refuse_batch()
        spread = parallel.batch_sharding(self.mesh, leading=1)

        def steps(state: TrainState, batches: PyTree, data: PyTree, root: Array) -> tuple[TrainState, Metrics]:
            def one(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
                if data:
                    rows = {k: batch if batch.ndim == 1 else batch[:, self.data[k].order] for k in data}
                    batch = {k: v[rows[k]] for k, v in data.items()}
                    batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(self.mesh))
                state, metrics = self.step(self.apart(state), batch, root)
                return self.join(state), metrics

            state = self.join(state)
            if num == 1:
                state, metrics = one(state, jax.tree.map(lambda x: x[0], batches))
                metrics = jax.tree.map(lambda m: m[None], metrics)
            else:
                state, metrics = jax.lax.scan(one, state, batches)
            nets = {k: net.replace(layout=None) for k, net in self.apart(state).nets.items()}
            return state.replace(nets=nets), metrics

        if data:
            sets = 1 + max(field.order for field in self.data.values())
            batches = jax.ShapeDtypeStruct((num, self.batch, *([sets] if sets > 1 else [])), jnp.int32)
        else:
            abstract = self.read_spec.abstract(self.batch)
            batches = jax.tree.map(lambda s: jax.ShapeDtypeStruct((num, *s.shape), s.dtype), abstract)
        places = (self.shardings, spread, parallel.replicated(self.mesh), parallel.replicated(self.mesh))
        owner = ("steps", num, *sorted((k, v.shape) for k, v in (data or {}).items()))
        if owner not in self.compiled:
            ends = (self.shardings, parallel.replicated(self.mesh))
            program = jax.jit(steps, donate_argnums=0, in_shardings=places, out_shardings=ends)
            self.compiled[owner] = program.lower(self.abstract, batches, data or {}, self.root).compile()
        return self.compiled[owner]

    @contextmanager
    def explaining(self, weights: Mapping[str, Weights], where: str = "") -> Iterator[None]:
        """A NotFinite from inside is told with step and weights, cause and cure.

        weights: by name, first those at work, then others that the run keeps.
        """
        try:
            yield
        except NotFinite as error:
            reach = {name: self.reach(w) for name, w in weights.items()}
            broken = {name: [k for k, v in nets.items() if not np.isfinite(v)] for name, nets in reach.items()}
            name = next((name for name in broken if broken[name]), next(iter(weights)))
            if broken[name]:
                cures = [*(f"--weights={k}" for k in broken if not broken[k]), "an earlier checkpoint (--step=N)"]
                why = f"these weights of {', '.join(broken[name])} are NaN or infinite; take {' or '.join(cures)}"
            else:
                why = self._cause(max(reach[name].values()), isinstance(error, BrokenSamples))
            raise NotFinite(f"{where}{error} (step {int(weights[name].step)}, weights {name}): {why}") from error

    def reach(self, w: Weights) -> dict[str, float]:
        """The largest absolute value among the variables of every net; NaN or infinity where there is any."""

        def largest(nets: dict[str, Variables]) -> dict[str, Array]:
            floats = {
                k: [x for x in jax.tree.leaves(v) if jnp.issubdtype(x.dtype, jnp.floating)] for k, v in nets.items()
            }
            return {k: jnp.max(jnp.stack([jnp.abs(x).max().astype(jnp.float32) for x in v])) for k, v in floats.items()}

        if "reach" not in self.shared:
            self.shared["reach"] = jax.jit(largest, out_shardings=parallel.replicated(self.mesh))
        return {name: float(value) for name, value in self.shared["reach"](w.nets).items()}

    def is_finite(self, w: Weights) -> bool:
        """No NaN or infinity among the variables of any net."""
        return bool(np.isfinite(list(self.reach(w).values())).all())

    def refuse_broken(self, w: Weights) -> None:
        """A NotFinite unless all weights are finite: figures of NaN may look sound (a code, a class, a picture is always found)."""
        if not self.is_finite(w):
            raise NotFinite("nothing is measured")

    def _cause(self, largest: float, sampled: bool) -> str:
        """Why weights that are finite give what is not, and the cure."""
        if largest > 1e8:
            return f"these weights reach {largest:.1g}, as training had diverged; take an earlier checkpoint (--step=N)"
        method = self.config.method.to_dict()
        if not sampled or "solver" not in method:
            return "these weights are finite, but a net overflows with them; take an earlier checkpoint (--step=N)"
        steps, scale = method["solver"].get("steps"), method.get("guide", {}).get("scale")
        cures = [f"--config.method.solver.steps={2 * steps}"] if steps else []
        cures += [f"--config.method.guide.scale={max(1.0, scale / 2):g}"] if scale and scale > 1 else []
        told = f"{method['solver']['name']}{f' of {steps} steps' if steps else ''}{f', guidance {scale:g}' if scale else ''}"
        return (
            f"these weights are finite, so the solver diverges ({told}); try {' or '.join(cures) or 'another solver'}"
        )

    @cached_property
    def compiled(self) -> Programs:
        """Programs by their owner, so that each is compiled once per run."""
        return Programs()

    @cached_property
    def settings(self) -> dict[str, Input]:
        """Parts of the method that only its samples depend on (solver, guide), as inputs of their program."""
        return self.method.settings() if isinstance(self.method, Tunes) else {}

    @cached_property
    def shared(self) -> Programs:
        """Programs that know nothing of the settings: the same for experiments that differ in nothing else."""
        config = self.config.copy_and_resolve_references().unlock()
        config.method = {k: v for k, v in config.method.items() if k not in self.settings}
        config.eval = {}
        key = (to_json(config), restores(self.config), self.data, self.kept, *self.loans.items())
        return SHARED.setdefault(key, Programs())

    def jit(self, owner: Hashable, function: Callable, programs: Programs | None = None) -> Callable:
        """`function(weights, batch, rng)`, jitted once for its `owner`; what it returns is gathered on every device.

        The owner is all that the function depends on besides its arguments: an evaluator with its options, say.
        `programs`: where it is kept; those of this experiment unless something else is said.
        """
        programs = self.compiled if programs is None else programs

        def gathered(w: Weights, batch: Batch, rng: Array) -> PyTree:
            return function(self.whole(w, self.shardings.view()), batch, rng)

        if owner not in programs:
            programs[owner] = jax.jit(gathered, out_shardings=parallel.replicated(self.mesh))
        return programs[owner]

    def open_source(self, split: str) -> Source:
        """The data set: "train" or "eval" (held out); one of another Spec is a UserError."""
        source = open_source(self.config, split, self.kept)
        words, fits = self.read_spec.changed(read_spec(self.config, source.spec))
        if not fits:
            raise UserError(
                f"config.data is not what this run was trained on: {words}; name the data it was trained on"
            )
        return source

    def open_pictures(self, split: str) -> Source:
        """The data set as pictures: those that were encoded where it holds latents."""
        return self.as_pictures(self.open_source(split), split)

    def as_pictures(self, source: Source, split: str) -> Source:
        """A part of the data; where it is latents, the pictures that were encoded."""
        return open_source(pictures_of(self.config, source), split) if hasattr(source, "pictures") else source

    @cached_property
    def pictures(self) -> Spec:
        """Of the data as pictures."""
        return self.open_pictures("train").spec if is_cached(self.data) else self.data

    def held_out(self, source: Source, num: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """(batch of the data on the devices, mask [B] of its `own` on the host): a share of `num` in order, the last one padded."""
        host, hosts = jax.process_index(), jax.process_count()
        more = self.spread(self._seen_at_once) // hosts - self._seen_at_once // hosts
        for batch in eval_batches(source, self._seen_at_once, num, host, hosts, fields=tuple(self.read_spec)):
            batch = {k: np.concatenate([v, v[np.arange(more) % len(v)]]) for k, v in batch.items()}
            placed = parallel.put_batch(self.mesh, batch)
            mask = parallel.to_host(placed.pop("valid"))
            yield placed, mask[self._own_rows(len(mask))]

    def own(self, batch: Batch) -> Batch:
        """A batch of `held_out` without what fills up the devices: a net that compares examples sees those of the config.

        Every program over held-out data begins with it; a compiled program may cut its batch unevenly, an array may not.
        """
        filled = self.spread(self._seen_at_once) > self._seen_at_once
        return {k: v[self._own_rows(len(v))] for k, v in batch.items()} if filled else batch

    @property
    def _seen_at_once(self) -> int:
        """Held-out examples of a batch: the config's, so that all hosts have as many."""
        hosts = jax.process_count()
        return -(-self.feed.batch // hosts) * hosts

    def _own_rows(self, num: int) -> np.ndarray:
        """Which of `num` rows are not filled up: every host's first ones."""
        hosts = jax.process_count()
        return np.arange(num).reshape(hosts, -1)[:, : self._seen_at_once // hosts].ravel()

    def labels(self, num: int) -> np.ndarray:
        """The labels asked for in grids and sample sets: 0, 1, ..., classes - 1, 0, ..."""
        return np.arange(num, dtype=np.int32) % max(1, self.spec.classes)

    def sample(self, *args: Any, **kwargs: Any) -> Made:
        """All batches of `samples` together."""
        return Made.joined(self.samples(*args, **kwargs))

    def samples(
        self, w: Weights, num: int, seed: int = 0, asked: Mapping[str, Any] | None = None, source: Source | None = None
    ) -> Iterator[Made]:
        """`num` samples in batches, made on all devices and given to every host, so that any number needs the memory of one.

        A batch is the config's, or the next power of two if `num` is less: few programs serve all numbers.
        asked: condition -> values [n, ...], repeated over the samples; labels that are not asked for run through all in turn.
        Conditions that only data can give come from a share of `source` (the held-out set where none is given).
        """
        if not isinstance(self.method, Samples):
            why = "it needs a prior over its codes" if isinstance(self.method, Encodes) else "it makes no pictures"
            mode = "caption" if isinstance(self.method, Describes) else "eval"
            raise UserError(f"method {self.config.method.name} cannot sample by itself: {why}; use --mode={mode}")
        asked = dict(asked or {})
        conditions.refuse_unknown(self.spec, asked, "sampling")
        refuse = self.method.refuse if isinstance(self.method, Refuses) else lambda cond: None
        refuse(asked)
        wanted = [name for name in self.from_data if name not in asked]
        if wanted:
            source = source or self.open_source("eval")
            chosen = share(source, num)
        elif self.spec.label:
            asked.setdefault(self.spec.label, self.labels(num))
        step = min(self.feed.batch, 1 << (num - 1).bit_length())
        size = self.spread(step)
        own = size // jax.process_count()
        mine = jax.process_index() * own + np.arange(own)  # this host's places in a batch
        program, root, w = self.sampler(size), keys.root(seed), self.settled(w)
        for i, start in enumerate(range(0, num, step)):
            count, data = min(step, num - start), {}
            if wanted:
                rows = [source[int(j)] for j in chosen[(start + mine) % len(chosen)]]
                data = {k: np.stack([row[k] for row in rows]) for k in self.read_spec}
            cond = {k: np.asarray(v)[(start + mine) % len(v)].astype(self.spec[k].dtype) for k, v in asked.items()}
            placed = parallel.put_batch(self.mesh, data), parallel.put_batch(self.mesh, cond)
            images, cond = program(w, (*placed, self.settings), keys.named(root, "sample", i))
            found = (*jax.device_get((images, cond)), parallel.to_host(placed[0]))
            refuse(found[1])  # what tasks made of the data
            sound = np.isfinite(found[0][:count]).reshape(count, -1).all(1)
            if not sound.all():
                raise BrokenSamples(f"{(~sound).sum()} of {len(sound)} samples are NaN or infinite")
            yield Made(*found).first(count)

    def settled(self, w: Weights) -> Weights:
        """The weights as the method samples with them; settled weights stay as they are."""
        if not isinstance(self.method, Settles):
            return w

        def find(w: Weights, settings: dict[str, Input], _: Array) -> dict[str, Variables]:
            return holding(self.method, {k: told.part for k, told in settings.items()}).settle(w)

        found = self.jit("settle", find, self.shared)(w, self.settings, self.root)
        return w.replace(nets={k: {**net, **found.get(k, {})} for k, net in w.nets.items()})

    def sheet(self, made: Made) -> tuple[np.ndarray, int]:
        """(uint8 pictures [N, H, W, C] to be drawn as a grid, its columns; 0: near square).

        Where conditions came from data, each sample stands between the pictures that were given and the original, which a cache of
        latents has not.
        """
        if not made.data or is_cached(self.data):
            return to_uint8(made.images), 0
        height, width, channels = self.data.shape[-3:]
        row = []
        for name, field in self.spec.of("image").items():
            h, w, c = field.shape
            if name in self.from_data and c == channels and height % h == 0 and width % w == 0:
                row.append(to_uint8(made.cond[name]).repeat(height // h, -3).repeat(width // w, -2))
        row += [made.images, made.data[self.made]]
        return beside(row), 4 * len(row)

    def sampler(self, num: int) -> Callable[[Weights, tuple[Batch, Batch, dict], Array], tuple[Array, Batch]]:
        """(weights, (data or {}, what is asked for, settings), rng) -> (samples as the data are [num, ...], all conditions).

        Every device makes its share, then all have all.
        """

        def make(w: Weights, given: tuple[Batch, Batch, dict[str, Input]], rng: Array) -> tuple[Array, Batch]:
            data, asked, settings = given
            seen = self.see(w.frozen, data, keys.named(rng, "tasks")) if data else {}
            cond = conditions.read(self.spec, {**seen, **asked}, num)
            method = holding(self.method, {k: told.part for k, told in settings.items()})
            x = method.sample(w, rng, num, cond)
            x = jax.lax.with_sharding_constraint(x, parallel.batch_sharding(self.mesh))
            sound = jnp.isfinite(x).reshape(num, -1).all(1)  # a codec may make fine pictures of NaN
            shown = self.show(w.frozen, x, cond)
            return jnp.where(sound.reshape(-1, *(1,) * (shown.ndim - 1)), shown, jnp.nan), cond

        return self.jit(("sample", num), make, self.shared)
