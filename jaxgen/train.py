"""THE loop: phases, step, log, evaluate, save. It moves a state through data and never sees a loss or an optimizer."""

import functools
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxgen import evaluate
from jaxgen.config import files as configs
from jaxgen.config.advice import first_net, gentler, lighter, smaller
from jaxgen.config.files import Phase, normalise, override, owner, phases, to_json
from jaxgen.config.length import laid_out, remarks
from jaxgen.config.registry import build
from jaxgen.core import parallel
from jaxgen.core.lender import Role
from jaxgen.core.method import Method, Samples
from jaxgen.core.spec import PICTURES, Spec
from jaxgen.core.state import PyTree, TrainState, adopt, renewed
from jaxgen.data.pipeline import index_stream, lengths, load_all, train_stream
from jaxgen.data.sources import Source, Tokenized
from jaxgen.errors import UserError
from jaxgen.evaluation.per_image import Evaluator
from jaxgen.runs.ahead import Ahead
from jaxgen.runs.checkpoint import Averages, Checkpoints, Damaged
from jaxgen.runs.directory import RunDir, environment, facts
from jaxgen.runs.experiment import TOKENIZERS, Experiment, build_tokenizers, open_source, read_spec
from jaxgen.runs.frozen import take
from jaxgen.runs.interrupt import Interrupt
from jaxgen.runs.memory import free_memory
from jaxgen.runs.posthoc import default_name, powers
from jaxgen.runs.watch import Watch
from jaxgen.runs.writers import Writers, duration, read_metrics, readable, say

TIGHT = 0.25  # share of the free memory from which on the plan says what most of it is for
FULL = 0.85  # share of the free memory from which on a step may not end well
SLOW, LONG = 30.0, 48 * 3600.0  # seconds without a word that are too many; seconds of a run that call for a remark
SMALL = 16 << 20  # bytes of a data set that is kept on the device even where that is the host's own memory


def train(config: ConfigDict, workdir: str | Path, allow_data_change: bool = False) -> None:
    """Run `config` in `workdir` to its last step, from the newest checkpoint if there is one.

    SIGTERM and SIGINT finish the step, save and return. A run goes on with the data that it began with; `allow_data_change`
    lets it go on with other examples of the same kind.
    """
    began = time.monotonic()
    run = RunDir(workdir)
    with run.alone():
        resume(normalise(config), run, began, allow_data_change)


def resume(config: ConfigDict, run: RunDir, began: float, allow_data_change: bool) -> None:
    """`train` in a directory that no other process writes to."""
    config = settled(config, run)
    stages = phases(config)

    @functools.cache
    def source(index: int) -> Source:
        return open_source(stages[index].config, "train", run.path / "frozen")

    @functools.cache
    def data(index: int) -> dict[str, Any]:
        return facts(source(index))

    @functools.cache
    def experiment(index: int) -> Experiment:
        return Experiment.open(stages[index].config, source(index).spec, run.path / "frozen")

    first = experiment(0)
    if config.snapshot_every and not powers(first.abstract):
        raise UserError(
            f"config.snapshot_every={config.snapshot_every} keeps power averages and no net has one; set "
            f"{first_net(config)}.ema=power, or set config.snapshot_every=0"
        )
    checkpoints = Checkpoints(run.path, config.keep)
    averages = Averages(run.path, create=any(stage.config.snapshot_every for stage in stages))

    changed: dict[int, str] = {}  # checkpoint -> how the data changed since

    def like(step: int) -> TrainState:
        story, stage = checkpoints.story(step), owner(stages, step)
        run.refuse_rewritten(step, story, stages[stage].config)
        if "spec" in story:
            old, new = ({**told, "spec": as_read(stages[stage].config, told["spec"])} for told in (story, data(stage)))
            changed[step] = run.changed_data(step, old, new, allow_data_change)
        return experiment(stage).abstract

    try:
        newest = max(checkpoints.steps(), default=0)
        if newest >= config.steps:
            newest, _ = checkpoints.restore(like)  # it may be damaged
        if newest >= config.steps:
            say(f"{run.path} is at step {newest} already; raise config.steps (now {config.steps}) to go on")
            return
        with Interrupt() as interrupt, Hits() as hits:

            @functools.cache
            def loop(index: int) -> Loop:
                parts = experiment(index), source(index), data(index), run, checkpoints, averages, interrupt, hits
                return Loop(*parts, stages[index], began, config.steps)

            if newest:
                with suppress(Damaged):
                    like(newest)
            ahead = [i for i, stage in enumerate(stages) if newest < stage.stop]
            for i in ahead:  # what a later phase lacks is told now
                loop(i)
            for i in ahead[1:]:
                refuse_shrinking(i, experiment(i - 1).spec, experiment(i).spec)
            loop(ahead[0]).prepare(newest)
            found = checkpoints.restore(like)
            if found:
                at, state, notes = found[0], experiment(owner(stages, found[0])).lend(found[1]), []
                if not at:  # what was imported: an optimizer begins now
                    fresh = first.init().nets
                    state = state.replace(nets={k: net.replace(opt=fresh[k].opt) for k, net in state.nets.items()})
            else:
                at, (state, notes) = 0, begin(first)
            if changed.get(at):
                say(f"data     {changed[at]}")
            run.claim(config, write=parallel.is_lead())  # now that nothing refuses the config
            checkpoints.forget_after(at)
            checkpoints.forget_old(config.keep)
            averages.forget_after(at)
            for i in range(owner(stages, at), len(stages)):
                if i > owner(stages, at):  # a new phase: keep what fits, start the rest afresh
                    fresh = experiment(i).init()
                    state, stayed = adopt(fresh, state)
                    state, grown = renewed(fresh, state, stayed)
                    state = jax.device_put(state, experiment(i).shardings)
                    anew = f"; the optimizers of {', '.join(grown)} begin anew" if grown else ""
                    notes = [f"phase {i + 1}: {listed(stayed)} start afresh{anew}"] if stayed else []
                if at < stages[i].stop:
                    state, at = loop(i)(state, at, notes)
                if at < stages[i].stop:
                    return
        say(finished(run, isinstance(first.method, Samples)))
    finally:
        checkpoints.close()
        averages.close()


def refuse_shrinking(index: int, before: Spec, after: Spec) -> None:
    """A UserError where a phase would make smaller pictures than the one before it."""
    old, new = (spec.of(*PICTURES).get(spec.target) for spec in (before, after))
    if old and new and any(b < a for a, b in zip(old.shape[-3:-1], new.shape[-3:-1], strict=True)):
        small, large = ("x".join(map(str, field.shape[-3:-1])) for field in (new, old))
        raise UserError(
            f"phase {index + 1} makes pictures of {small} after {large}; order config.phases so that they grow"
        )


def as_read(config: ConfigDict, spec: dict[str, Any]) -> dict[str, Any]:
    """Of a Spec in JSON, the fields that a run of that config reads: classes that it is not told may change."""
    return read_spec(config, Spec.from_json(spec)).to_json()


def settled(config: ConfigDict, run: RunDir) -> ConfigDict:
    """The config with what a first start decides: the length of schedules, and what its tasks find out of the data.

    Both are taken from the run that is there already.

    Runs that the tasks need are copied into the run's directory first, so that they are its own from the first step on.
    """
    config = laid_out(config, run.config() if run.begun else None)
    if run.begun:
        old = run.config()
        for path in (*configs.places(config, "data.tokenizer"), *(f"tasks.{name}" for name in config.tasks)):
            now, then = (configs.find(configs.plain(c), path) or {} for c in (config, old))
            stored = {k: v for k, v in then.items() if now.get(k) == () != v}  # left open now, found then
            config = override(config, {f"{path}.{k}": v for k, v in stored.items()}) if stored else config
        run.claim(config, write=False)
        return config
    if not config.tasks and not build_tokenizers(config):
        return config
    source = open_source(config, "train")
    if isinstance(source, Tokenized):
        for path, name, one in zip(
            configs.places(config, "data.tokenizer"), TOKENIZERS, source.tokenizers, strict=False
        ):
            config = override(config, {f"{path}.{k}": v for k, v in one.found.items()})
            if parallel.is_lead():
                run.keep_files(name, one.sources())
    if not config.tasks:
        return config
    exp = Experiment.open(config, source.spec)
    if parallel.is_lead():
        for name, loan in {k: loan for stage in exp.stages for k, loan in stage.task.loans().items()}.items():
            run.keep(name, loan.lender)
    return override(config, exp.settle(source))


def begin(exp: Experiment) -> tuple[TrainState, list[str]]:
    """A fresh state, from the weights of config.init where it names a run; and what is to be said of it."""
    state = exp.init()
    if not exp.config.init:
        return state, []
    lender = build("run", exp.config.init.to_dict(), where="config.init")
    lender.check("config.init", Role(Method, "run", target=False), exp.spec, exp.method)
    lent = lender.load(parallel.everywhere(exp.mesh, lender.abstract))
    state, stayed = take(state, lent.weights)
    taken = sum(len(jax.tree.leaves(net.variables(False))) for net in state.nets.values()) - len(stayed)
    kept = f"; {listed(stayed)} start afresh" if stayed else ""
    return jax.device_put(state, exp.shardings), [f"init: {taken} variables from {lender.path}, step {lender.at}{kept}"]


def listed(names: list[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Hits(threading.local):
    """Counts programs that came out of the compilation cache, while it lasts, for each thread that compiles."""

    count = 0

    def __enter__(self) -> "Hits":
        jax.monitoring.register_event_listener(self.note)
        return self

    def note(self, event: str, **_: Any) -> None:
        """The listener."""
        self.count += "cache_hits" in event

    def __exit__(self, *_: Any) -> None:
        if hasattr(jax.monitoring, "unregister_event_listener"):  # jax < 0.8 has none: it counts on, to no harm
            jax.monitoring.unregister_event_listener(self.note)


class Compiled(NamedTuple):
    """A program, the seconds that it took to get it, and whether it was kept from an earlier start."""

    program: Any
    seconds: float
    kept: bool


class Loop:
    """One phase of a run: what is fixed while it lasts, and what the loop does at its borders."""

    def __init__(
        self, exp: Experiment, source: Source, data: dict[str, Any], run: RunDir, checkpoints: Checkpoints,
        averages: Averages, interrupt: Interrupt, hits: Hits, stage: Phase, began: float, total: int,
    ) -> None:  # fmt: skip
        self.exp, self.run, self.checkpoints, self.averages = exp, run, checkpoints, averages
        self.interrupt, self.hits, self.began, self.stop, self.total = interrupt, hits, began, stage.stop, total
        self.config, self.facts = exp.config, data
        self.source = source
        self.tests, self.held_out = evaluate.with_data(exp, evaluate.evaluators(exp))
        self.owners: dict[str, str] = {}  # figure -> the evaluator that has its plain name
        self.faults: dict[str, str] = {}  # evaluator -> what went wrong last
        self.watch = Watch(exp.config)
        exp.refuse_batch(len(source))
        exp.refuse_new_texts(source)
        if self.held_out:
            self.held_out[0]  # what cannot be read is told before the first step
        self.programs: dict[int, Ahead[Compiled]] = {}
        self.resident = self.is_resident()
        self.data: dict[str, jax.Array] = {}
        self.fetcher = ThreadPoolExecutor(1)  # waits for the device in the loop's place
        self.counted, self.clock = 0, began  # the step and the time up to which images/s is accounted for

    def prepare(self, at: int) -> None:
        """Say what is about to happen, and let the first program be compiled while the weights are made or read."""
        self.plan(at)
        self.compile(self.size(at))

    def __call__(self, state: TrainState, at: int, notes: list[str]) -> tuple[TrainState, int]:
        """From step `at` to the end of the phase, or to where a signal ends it -> (state, step). notes: on the weights."""
        config, exp, stop = self.config, self.exp, self.stop
        if not self.programs:
            self.prepare(at)
        for note in notes:
            say(f"weights  {note}")
        batches = self.feed(at)
        self.writers = Writers(self.run.path, at, self.total, parallel.is_lead())
        if parallel.is_lead():
            self.run.record(self.facts, environment())
            self.watch.recall(read_metrics(self.run.path))
        try:
            first = self.size(at)
            if (program := self.program(first)) is None:
                raise KeyboardInterrupt(f"{self.interrupt.name} while compiling: step {at} is the last, as before")
            self.say_program(first)
            self.snapshot(state, at)  # a run killed between checkpoint and snapshot makes it now
            interval: list[PyTree] = []  # metrics still on the device
            began = since = at
            self.late: tuple[int, int, Future] | None = None  # the interval before: fetched while this one runs
            while at < stop:
                num = self.size(at)
                program = self.program(num)
                if program is not None:
                    state, metrics = program(state, batches(at, num), self.data, exp.root)
                    at += num
                    interval.append(metrics)
                if began < at <= began + 2 * num:
                    self.say_pace(at, num, metrics, first=at == began + num)
                self.writers.progress(at)
                halt = self.halted(at)
                ends = at >= stop or halt
                if interval and (at % config.log_every == 0 or ends):
                    self.log()
                    self.late, interval, since = (since, at, self.fetcher.submit(fetch, interval)), [], at
                elif self.late and self.late[2].done() and jax.process_count() == 1:
                    self.log()  # as soon as the figures are there
                elif len(interval) > 1 and self.writers.silent() > SLOW:
                    self.writers.console(at, self.shown(mean(jax.device_get(interval[-2:-1]))))
                self.snapshot(state, at)  # before the checkpoint: what a resumed run finds has all earlier ones
                if at % config.save_every == 0 or ends:
                    self.log()
                    self.save(state, at)
                due = {k: t for k, t in self.tests.items() if t.every and at % t.every == 0}
                final = at >= stop == self.total
                if due or final:
                    self.log()
                    self.evaluate(self.tests if final else due, state, at)
                    self.clock = time.monotonic()
                if halt:
                    self.checkpoints.wait()
                    self.averages.wait()
                    self.writers.say(
                        f"{self.interrupt.name or 'a signal'}: step {at} is saved; the same command goes on from there"
                    )
                    break
            self.checkpoints.wait()
            return state, at
        finally:
            self.fetcher.shutdown()
            self.writers.close()

    def size(self, at: int) -> int:
        """How many steps the next program makes: up to the next thing that is due, as few programs as possible."""
        rhythms = (self.config.log_every, self.config.save_every, *self.rhythms())
        border = min([self.stop, *(at - at % n + n for n in rhythms)])
        return self.config.steps_per_call if border - at >= self.config.steps_per_call else 1

    def rhythms(self) -> list[int]:
        """Steps between evaluations, and between snapshots."""
        return [n for n in (self.config.snapshot_every, *(t.every for t in self.tests.values())) if n]

    def compile(self, num: int) -> Ahead[Compiled]:
        """The program of `num` steps, begun to be compiled."""
        if num not in self.programs:
            data = self.read.abstract(lengths(self.source)) if self.resident else {}
            self.programs[num] = Ahead(lambda: self.compiled(num, data))
        return self.programs[num]

    def compiled(self, num: int, data: dict[str, jax.ShapeDtypeStruct]) -> Compiled:
        """Compile now; a device that is too small is a UserError."""
        before, hits = time.monotonic(), self.hits.count
        try:
            program = self.exp.compile_steps(num, data)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"the step does not fit in the device's memory; {smaller(self.config, parallel.batch_devices(self.exp.mesh))}"
            ) from error
        return Compiled(program, time.monotonic() - before, self.hits.count > hits)

    def program(self, num: int) -> Callable | None:
        """The compiled program of `num` steps per dispatch; None where a signal came before it was there."""
        found = self.compile(num).result(
            lambda: jax.process_count() == 1 and bool(self.interrupt.name),
            lambda seconds: self.writers.say(f"compile  still at it after {seconds:.0f} s"),
        )
        return found and found.program

    @property
    def read(self) -> Spec:
        """The fields that are read."""
        return self.exp.read_spec

    def is_resident(self) -> bool:
        """Whether the whole data set is kept on the devices."""
        feed = self.exp.feed
        if feed.placement == "device" and self.exp.transforms:
            raise UserError(
                "config.data.placement='device' cannot run config.data.transforms, which work on the host; set "
                "config.data.placement=auto"
            )
        size = len(self.source) * sum(math.prod(f.shape) * np.dtype(f.dtype).itemsize for f in self.read.values())
        room = feed.device_mb << 20 if jax.default_backend() != "cpu" else min(SMALL, feed.device_mb << 20)
        return feed.placement == "device" or (feed.placement == "auto" and size <= room and not self.exp.transforms)

    def feed(self, at: int) -> Callable[[int, int], PyTree]:
        """A function (step, num) -> num batches on the devices, reading on from step `at`: indices where the data are there."""
        exp, feed, mesh = self.exp, self.exp.feed, self.exp.mesh
        host = {"host": jax.process_index(), "hosts": jax.process_count()}
        if self.resident:
            stream = index_stream(lengths(self.source), exp.batch, self.config.seed, **host)
            limit, quiet = feed.device_mb << 20, None if parallel.is_lead() else True
            with tqdm(desc="loading", total=len(self.source), unit="img", delay=2, disable=quiet) as bar:
                whole = load_all(self.source, limit, lambda done, _: bar.update(done - bar.n), feed.workers)
            self.data = parallel.put_replicated(mesh, {k: whole[k] for k in self.read})
            return lambda step, num: parallel.put_batch(
                mesh, {"i": np.stack([stream.batch_at(step + i) for i in range(num)])}, leading=1
            )["i"]
        reading = {"workers": feed.workers, "prefetch": feed.prefetch, "fields": tuple(self.read)}
        stream = train_stream(self.source, exp.batch, self.config.seed, exp.transforms, **reading, **host)
        iterator = stream.start(at)

        def batches(step: int, num: int) -> PyTree:
            parts = [next(iterator) for _ in range(num)]
            return parallel.put_batch(mesh, {k: np.stack([p[k] for p in parts]) for k in self.read}, leading=1)

        return batches

    def plan(self, at: int) -> None:
        """What is about to happen, before anything slow."""
        exp, config = self.exp, self.config
        held = "all of them in the device's memory" if self.resident else "read while it trains"
        nets = {k: sum(x.size for x in jax.tree.leaves(n.params)) for k, n in exp.abstract.nets.items()}
        updates, num = exp.batch // exp.feed.batch, self.size(at)
        whole = all(action == "replicate" for _, action in config.sharding)
        parts = "each holds the whole model" if whole else f"the model is cut by {dict(config.sharding)}"
        axes = ", ".join(f"{k}={v}" for k, v in exp.mesh.shape.items())
        hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
        many = f"{hosts} (mesh {axes}): {parts} and takes its part of every batch"
        lines = {
            "run": f"{config.method.name} in {self.run.path}: from step {at:,} to {config.steps:,}",
            "data": f"{config.data.name}: {len(self.source):,} examples of {self.read}, {held}",
            **{f"data{i}": note for i, note in enumerate(self.source.notes)},
            "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}" + (many if exp.mesh.size > 1 else ""),
            "nets": ", ".join(f"{k} of {v:,} parameters" for k, v in nets.items()),
            "batch": f"{exp.batch} images a step"
            + (f", in {updates} updates" if updates > 1 else "")
            + (f"; {num} steps run as one program" if num > 1 else ""),
        }
        if exp.stages:
            lines["seen"] = f"{exp.spec}, after {', '.join(type(stage.task).__name__.lower() for stage in exp.stages)}"
        lines |= {f"schedule{i}": text for i, text in enumerate(remarks(config, at))}
        lines["compile"] = "the training step is being compiled ..."
        say("\n".join(f"{name.rstrip('0123456789'):<9}{text}" for name, text in lines.items()))

    def say_program(self, num: int) -> None:
        """How long compiling took and what memory a step needs; a UserError where the machine has not so much."""
        made = self.compile(num).future.result()
        how = "kept from an earlier start" if made.kept else "kept for the next start"
        self.writers.say(f"compile  {made.seconds:.1f} s; the program is {how}")
        memory, free = made.program.memory_analysis(), free_memory()
        if not memory:
            return
        local = jax.local_device_count() if jax.default_backend() == "cpu" else 1  # devices that share this memory
        need, devices = memory.temp_size_in_bytes * local, parallel.batch_devices(self.exp.mesh)
        parts = {
            "state": (bytes_of(self.exp.abstract.replace(frozen={})), "of weights, optimizer and averages"),
            "frozen models": (bytes_of(self.exp.abstract.frozen), "of frozen models"),
            "data": (bytes_of(self.data), "of data"),
            "step": (need, "to work with"),
        }
        whole = sum(size for size, _ in parts.values())
        told = ", ".join(f"{gigabytes(size)} {what}" for size, what in parts.values() if size > 0.01 * whole)
        beside = f"; {gigabytes(free)} are free" if free else ""
        most = max(parts, key=lambda part: parts[part][0])
        if free and need <= FULL * free and whole > TIGHT * free:
            beside += f". Most is {parts[most][1]}; should it be less, {lighter(self.config, devices, most)}"
        self.writers.say(f"memory   {told}{beside}")
        if free and need > FULL * free:
            least = f"a step needs {gigabytes(need)} of memory and {gigabytes(free)} are free"
            cure = smaller(self.config, devices, need / (FULL * free))
            if need > free:
                raise UserError(f"{least}; {cure}")
            self.writers.say(f"warning: {least}; should the system end this process, {cure}")

    def say_pace(self, at: int, num: int, metrics: PyTree, first: bool) -> None:
        """After the first program: that it works. After the second, which has nothing to make ready: how long all will take."""
        jax.block_until_ready(metrics)
        now = time.monotonic()
        if first:
            figures = "  ".join(f"{k} {readable(v)}" for k, v in self.shown(mean([jax.device_get(metrics)])).items())
            what = f"first {num} steps" if num > 1 else "first step"
            self.writers.say(f"{what} done {now - self.began:.1f} s after the start  {figures}")
        else:
            each = (now - self.clock) / num
            left = each * (self.total - at)
            self.writers.say(
                f"{each:.2g} s a step, {readable(self.exp.batch / each)} images/s: step {self.total:,} in about {duration(left)}"
            )
            if left > LONG:
                self.writers.say(
                    "that is long; a GPU, a smaller net (--config.method.net.width=32) or batch, or fewer steps (--config.steps=N) "
                    "take less, and --config=pictures_small is made for a folder of pictures on a CPU"
                )
        self.counted, self.clock = at, now  # compiling and loading are not speed

    def halted(self, at: int) -> bool:
        """Whether to stop here. Several hosts agree at log ticks only, so that no step waits for the network."""
        if jax.process_count() == 1:
            return bool(self.interrupt.name)
        return at % self.config.log_every == 0 and parallel.agree(bool(self.interrupt.name))

    def log(self) -> None:
        """Write the last interval's means; NaN or infinity ends the run here."""
        if self.late is None:
            return
        (start, stop, future), self.late = self.late, None
        fetched, now = future.result()
        rate, steps = 0.0, stop - self.counted
        if steps > 0:  # none where the first dispatches, whose pace was told, were all of the interval
            rate = steps * self.exp.batch / max(now - self.clock, 1e-9)
            self.counted, self.clock = stop, now
        speed = {"images_per_s": rate} if rate else {}
        means = mean(fetched)
        if not np.isfinite(list(means.values())).all():
            sound = {k: np.isfinite(v) for k, v in series(fetched).items()}
            first = int(np.all(list(sound.values()), 0).argmin())  # after it all are broken
            broken = [k for k, v in sound.items() if not v[first]]
            raise self.diverged(f"{', '.join(broken)} became NaN or infinite at step {start + 1 + first}")
        self.record(stop, {**means, **speed}, "train")
        left = (self.total - stop) * self.exp.batch / rate if rate else None
        self.writers.console(stop, {**self.shown(means), **({"images/s": rate} if rate else {})}, left)

    def record(self, at: int, figures: Mapping[str, float], prefix: str) -> None:
        """Write figures, and say what is wrong with them."""
        self.writers.scalars(at, figures, prefix)
        for told in self.watch(at, {f"{prefix}/{k}": v for k, v in figures.items()}):
            self.writers.say(f"watch    step {at}: {told}")

    @staticmethod
    def shown(means: dict[str, Any]) -> dict[str, Any]:
        """The figures of the line that people watch."""
        return {k: means[k] for k in [k for k in means if "loss" in k][:2] or list(means)[:1]}

    def diverged(self, what: str) -> UserError:
        """The NaN policy: stop, keep what was good."""
        self.checkpoints.wait()
        whole = self.checkpoints.steps()
        last = f"the last good checkpoint is step {whole[-1]}" if whole else "there is no checkpoint yet"
        return UserError(
            f"{what}; {last} in {self.checkpoints.folder}. Run the same command again with {gentler(self.config)}"
        )

    def snapshot(self, state: TrainState, at: int) -> None:
        """Keep the power averages of step `at` for good, where one is due and not there yet."""
        every = self.config.snapshot_every
        if every and at and at % every == 0 and at not in self.averages.steps():
            self.refuse_broken(state, at)
            self.averages.write(at, powers(state))

    def refuse_broken(self, state: TrainState, at: int) -> None:
        """Nothing broken is written."""
        if not self.exp.is_finite(state.view()):
            raise self.diverged(f"weights became NaN or infinite by step {at}")

    def save(self, state: TrainState, at: int) -> None:
        """Start a checkpoint of step `at`, unless the weights are broken."""
        self.refuse_broken(state, at)
        self.run.confirm()
        self.checkpoints.save(at, state, {"config": json.loads(to_json(self.config)), **self.facts})

    def evaluate(self, tests: dict[str, Evaluator], state: TrainState, at: int) -> None:
        """Run the evaluators that are due. What goes wrong in one is told once, and is no reason to end a run."""
        self.refuse_broken(state, at)
        for name, test in tests.items():
            try:
                self.report(name, test, state, at)
            except Exception as error:
                if jax.process_count() > 1 and not isinstance(error, UserError):
                    raise  # the other hosts may wait for this one
                line = " ".join(str(error).split())[:300]
                what = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
                if self.faults.get(name) != what:
                    self.writers.say(f"warning: step {at}: config.eval.{name} failed, and training goes on: {what}")
                self.faults[name] = what
        self.writers.draw()

    def report(self, name: str, test: Evaluator, state: TrainState, at: int) -> None:
        """Run one evaluator, and tell what it found."""
        w = state.view(), state.view(ema=True)
        for _, report in evaluate.reports(self.exp, {name: test}, *w, self.held_out, owners=self.owners):
            if report.scalars:
                self.record(at, report.scalars, "eval")
                of = "on held-out data" if test.reads else name
                self.writers.say(f"step {at}  {of}  " + "  ".join(f"{k} {v:.5g}" for k, v in report.scalars.items()))
            for label, images in report.images.items():
                self.writers.image(at, label, images, report.columns, report.captions)
            if report.beside:
                self.checkpoints.wait()  # what lies beside a checkpoint comes after it
            for key, value in report.beside.items() if parallel.is_lead() else ():
                self.run.note(at, f"{key}-{default_name(state)}", value)


def finished(run: RunDir, samples: bool) -> str:
    """Where everything is, and what to do with it; `samples`: whether the method can make pictures."""
    places = {"pictures": "samples", "curves": "loss.png", "figures": "metrics.jsonl"}
    found = [f"{what} in {run.path / name}" for what, name in places.items() if (run.path / name).exists()]
    what, mode = ("pictures", "sample") if samples else ("figures", "eval")
    more = f"more {what}: python -m jaxgen.main --workdir={run.path} --mode={mode}"
    return "done     " + "; ".join([", ".join(found), more] if found else [more])


def bytes_of(tree: PyTree) -> int:
    """Of all its arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def gigabytes(num: int) -> str:
    """A number of bytes, as people say it."""
    return f"{num / 1e9:,.1f} GB" if num >= 1e9 else f"{num / 1e6:,.3g} MB"


def series(interval: list[PyTree]) -> dict[str, np.ndarray]:
    """The metrics [steps] of some programs."""
    return {k: np.concatenate([m[k] for m in interval]) for k in interval[0]}


def mean(interval: list[PyTree]) -> dict[str, float]:
    """Their means, on the host."""
    return {k: float(v.mean(dtype=np.float64)) for k, v in series(interval).items()}


def fetch(interval: list[PyTree]) -> tuple[list[PyTree], float]:
    """The metrics of an interval on the host, and when the device had finished it."""
    return jax.device_get(interval), time.monotonic()
