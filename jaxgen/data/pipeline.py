"""Source -> batches, by index: the batch of step k is a pure function of (source, seed, k), on any number of hosts.

Order of things: source, shuffle (each epoch its own permutation), repeat, augment, split by host, batch, prefetch. The
split comes last, and host h of n takes the h-th contiguous n-th of every global batch; so the hosts' batches, one after
the other, are the batch a single host would see. The state of the iterator is the step.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from jaxgen.core.ranges import refuse_seed
from jaxgen.core.spec import PICTURES, Spec
from jaxgen.data.sources import Source
from jaxgen.data.transforms import Transform
from jaxgen.errors import UserError

Batch = dict[str, np.ndarray]


@functools.lru_cache(maxsize=8)
def permutation(num: int, seed: int, epoch: int, order: int = 0) -> np.ndarray:
    """The order of one epoch: a uniformly random permutation of range(num), int32 [num]; `order` numbers independent ones."""
    key = (epoch, order) if order else (epoch,)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
    return rng.permutation(np.arange(num, dtype=np.int32))


class Order(grain.MapDataset[int]):
    """Position in an endless run -> record index; it takes the place of Grain's own shuffle, at a tenth of its cost."""

    def __init__(self, num: int, seed: int, order: int = 0):
        super().__init__()
        self.num, self.order_seed, self.order = num, seed, order

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> int:
        epoch, i = divmod(position, self.num)
        return int(permutation(self.num, self.order_seed, epoch, self.order)[i])

    def take(self, start: int, count: int) -> np.ndarray:
        """Indices of positions start .. start + count, int32 [count]; they may reach over several epochs."""
        parts = []
        for epoch in range(start // self.num, (start + count - 1) // self.num + 1):
            begin = epoch * self.num
            part = slice(max(0, start - begin), start + count - begin)
            parts.append(permutation(self.num, self.order_seed, epoch, self.order)[part])
        return np.concatenate(parts)


class Orders(grain.MapDataset[tuple[int, ...]]):
    """The same of several sets, each in an order of its own: that of a set depends on no other."""

    def __init__(self, lengths: Sequence[int], seed: int):
        super().__init__()
        self.orders = [Order(num, seed, i) for i, num in enumerate(lengths)]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> tuple[int, ...]:
        return tuple(order[position] for order in self.orders)

    def take(self, start: int, count: int) -> np.ndarray:
        """Indices of positions start .. start + count, int32 [count, sets]."""
        return np.stack([order.take(start, count) for order in self.orders], -1)


def ordered(lengths: int | Sequence[int], seed: int) -> Order | Orders:
    """The order of a source of so many examples; of several lengths those of its sets."""
    lengths = (lengths,) if isinstance(lengths, int) else lengths
    return Order(lengths[0], seed) if len(lengths) == 1 else Orders(lengths, seed)


class HostSlice(grain.MapDataset[Any]):
    """What host `host` of `hosts` sees of a stream: the host-th contiguous part of every global batch."""

    def __init__(self, parent: grain.MapDataset, batch: int, host: int, hosts: int):
        super().__init__(parent)
        self.global_batch, self.local = batch, batch // hosts
        self.offset = host * self.local

    def __len__(self) -> int:
        return len(self._parent) // self.global_batch * self.local

    def __getitem__(self, i: int) -> Any:
        step, row = divmod(i, self.local)
        return self._parent[step * self.global_batch + self.offset + row]


class IndexBatches(grain.MapDataset[np.ndarray]):
    """Step -> this host's record indices, int32 [B / hosts] (or [B / hosts, sets]): all at once, no work per element."""

    def __init__(self, order: Order | Orders, batch: int, host: int, hosts: int):
        super().__init__()
        self.order, self.global_batch, self.local = order, batch, batch // hosts
        self.offset = host * self.local

    def __len__(self) -> int:
        return len(self.order) // self.global_batch

    def __getitem__(self, step: int | slice) -> Any:
        if isinstance(step, slice):
            return self.slice(step)
        return self.order.take(step * self.global_batch + self.offset, self.local)


@dataclass(frozen=True)
class Stream:
    """Batches by step number; nothing is remembered between calls."""

    batches: grain.MapDataset
    workers: int
    prefetch: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return self.start(0)

    def batch_at(self, step: int) -> Any:
        """The batch of one step, made now, in this thread; costs the same for every step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside 0 .. {len(self) - 1}")
        return self.batches[step]

    def start(self, step: int = 0) -> Iterator[Any]:
        """Batches `step`, `step` + 1, ... made ahead in threads, beginning now; close() stops the threads."""
        ahead = max(self.prefetch, self.workers) if self.prefetch else 0
        options = grain.ReadOptions(num_threads=self.workers if ahead else 0, prefetch_buffer_size=ahead)
        batches = iter(self.batches[step:].to_iter_dataset(options))
        batches.start_prefetch()
        return batches


def threads(source: Source) -> int:
    """How many threads read best: what takes under 0.2 ms mostly holds Python's lock, where a second only waits."""

    def seconds(i: int) -> float:
        start = time.perf_counter()
        source[i]
        return time.perf_counter() - start

    fastest = min(seconds(i) for i in range(min(8, len(source))))
    return 1 if fastest < 2e-4 else min(8, os.cpu_count() or 1)


def lengths(source: Source) -> tuple[int, ...]:
    """Examples of each set that a source holds, in the `order` of their fields; mostly it is one set."""
    return getattr(source, "lengths", (len(source),))


def _refuse_impossible(num: int, batch: int, seed: int, host: int, hosts: int) -> None:
    if num < 1:
        raise UserError("the data set is empty")
    if batch < 1 or batch % hosts:
        raise UserError(f"batch={batch} must be a positive multiple of the number of hosts ({hosts})")
    if not 0 <= host < hosts:
        raise UserError(f"host {host} is not one of 0 .. {hosts - 1}")
    refuse_seed(seed)


def _example(source: Source, fields: Collection[str], i: int | tuple[int, ...]) -> dict[str, Any]:
    example = source[i]
    return {name: example[name] for name in fields}


def _move(
    transform: Transform, names: Collection[str], example: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    return {**example, **transform({name: example[name] for name in names}, rng)}


def on_device(spec: Spec) -> Spec:
    """The fields that can cross to a device: all but text."""
    return spec.where(lambda _, field: field.kind != "text")


def train_stream(
    source: Source,
    batch: int,
    seed: int,
    transforms: Sequence[Transform] = (),
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    prefetch: int = 4,
    fields: Collection[str] | None = None,
) -> Stream:
    """Endless shuffled batches, never ragged: an array [B/hosts, ...] for each of `fields` (None: all but text).

    `batch` is the global batch and may exceed the data set (it runs on into the next epoch). workers: decoding threads,
    0 = what suits the source; prefetch: batches made ahead, 0 = none. Errors: batch not divisible by hosts.
    """
    _refuse_impossible(len(source), batch, seed, host, hosts)
    fields = tuple(on_device(source.spec) if fields is None else fields)
    pictures = [name for name in source.spec.of(*PICTURES) if name in fields]
    if transforms and not pictures:
        raise UserError(
            f"data.transforms move pictures, and the data hold {source.spec}; set config.data.transforms=()"
        )
    draws = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Grain's own seeds have 32 bits
    stream = ordered(lengths(source), seed).seed(draws).map(functools.partial(_example, source, fields))
    for transform in transforms:
        stream = stream.random_map(functools.partial(_move, transform, pictures))
    batches = HostSlice(stream, batch, host, hosts).batch(batch // hosts, drop_remainder=True)
    return Stream(batches, workers or threads(source), prefetch)


def share(source: Source, num: int, seed: int = 0) -> np.ndarray:
    """Indices [num] of a seeded share of a source, ascending; num = 0, or as many as there are: all.

    Where the source knows its labels, a class has as much of the share as of the source, to a picture or two. A larger
    share of one seed holds the smaller.
    """
    if num < 0:
        raise UserError(f"num={num} must be a number of examples, or 0 for all")
    refuse_seed(seed)
    if not 0 < num < len(source):
        return np.arange(len(source))
    rng = np.random.default_rng(seed)
    order, labels = rng.permutation(len(source)), source.labels
    if labels is None:
        return np.sort(order[:num])
    order = order[np.argsort(labels[order], kind="stable")]  # class by class
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    # where each stands in its class, evenly over 0 .. 1 from a start of the class's own: the first of all are the share
    place = (rank + np.repeat(rng.random(len(counts)), counts)) / np.repeat(counts, counts)
    return np.sort(order[np.argsort(place, kind="stable")[:num]])


def index_stream(num: int | Sequence[int], batch: int, seed: int, host: int = 0, hosts: int = 1) -> Stream:
    """The record indices of `train_stream`'s batches, int32 [B/hosts]: for data that is kept on the device.

    num: of the examples; the `lengths` of a source of several sets: an index for each, [B/hosts, sets].
    """
    _refuse_impossible(min(num) if isinstance(num, Sequence) else num, batch, seed, host, hosts)
    return Stream(IndexBatches(ordered(num, seed), batch, host, hosts), workers=1, prefetch=4)


def eval_batches(
    source: Source,
    batch: int,
    num: int = 0,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    prefetch: int = 4,
    fields: Collection[str] | None = None,
    seed: int = 0,
) -> Stream:
    """One pass in order over a `share` of `num` examples (0 = all), each exactly once where valid=float32 [B/hosts] is 1.

    The last batch is filled up with the first examples at valid 0, so every host yields the same number of full batches, and a
    net that looks at a whole batch (minibatch deviation) meets no example twice where there are enough; where another stands in
    for what cannot be decoded valid is 0 too. `fields` are those of `train_stream`.
    """
    _refuse_impossible(len(source), batch, 0, host, hosts)
    rows = share(source, num, seed)
    num = len(rows)
    fields = tuple(on_device(source.spec) if fields is None else fields)

    def example(position: int) -> dict[str, Any]:
        row = int(rows[position % num])
        return _example(source, fields, row) | {"valid": np.float32(position < num and source.sound(row))}

    stream = grain.MapDataset.range(math.ceil(num / batch) * batch).map(example)
    batches = HostSlice(stream, batch, host, hosts).batch(batch // hosts, drop_remainder=True)
    return Stream(batches, workers or threads(source), prefetch)


def _silent(done: int, total: int) -> None:
    """No progress report."""


def load_all(
    source: Source, limit_bytes: int, progress: Callable[[int, int], None] = _silent, workers: int = 0
) -> Batch:
    """The whole set decoded: an array [N, ...] for every field but text; of several sets, each field has the N of its own.

    progress(done, total) is called every few hundred examples. Errors: more than `limit_bytes`.
    """
    num, whole = len(source), source.spec.abstract(lengths(source))
    size = sum(math.prod(each.shape) * each.dtype.itemsize for each in whole.values())
    if size > limit_bytes:
        raise UserError(
            f"the data set decodes to {size / 1e9:.2f} GB, over the limit of {limit_bytes / 1e9:.2f} GB: "
            "read it from the host, config.data.placement=host"
        )
    out = {name: np.empty(each.shape, each.dtype) for name, each in whole.items()}

    def fill(start: int) -> int:
        stop = min(start + 256, num)
        for i in range(start, stop):
            example = source[i]
            for key, values in out.items():
                if i < len(values):
                    values[i] = example[key]
        return stop

    with ThreadPoolExecutor(workers or threads(source)) as pool:
        for done in pool.map(fill, range(0, num, 256)):
            progress(done, num)
    return out
