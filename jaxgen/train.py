"""THE loop: phases, step, log, evaluate, save. It moves a state through data and never sees a loss or an optimizer."""

import functools
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxgen import evaluate
from jaxgen.config.files import normalise, override, owner, phases, to_json
from jaxgen.config.registry import build
from jaxgen.core import parallel
from jaxgen.core.lender import Role
from jaxgen.core.method import Method
from jaxgen.core.state import PyTree, TrainState, adopt
from jaxgen.data.pipeline import index_stream, load_all, train_stream
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.evaluation.per_image import Evaluator
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.directory import RunDir, environment
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.frozen import take
from jaxgen.runs.posthoc import powers
from jaxgen.runs.writers import Writers

SMALL = 16 << 20  # bytes of a data set that is kept on the device even where that is the host's own memory


class Interrupt:
    """SIGTERM and SIGINT set a flag that the loop reads between steps; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.name = ""

    def __enter__(self) -> "Interrupt":
        self.old = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Run `config` in `workdir` to its last step, from the newest checkpoint if there is one.

    SIGTERM and SIGINT finish the step, save and return.
    """
    began = time.monotonic()
    run = RunDir(workdir)
    with run.alone():
        resume(normalise(config), run, began)


def resume(config: ConfigDict, run: RunDir, began: float) -> None:
    """`train` in a directory that no other process writes to."""
    config = settled(config, run)
    stages = phases(config)

    @functools.cache
    def source(index: int) -> Source:
        return open_source(stages[index].config, "train")

    @functools.cache
    def experiment(index: int) -> Experiment:
        return Experiment.open(stages[index].config, source(index).spec, run.path / "frozen")

    first = experiment(0)
    if config.snapshot_every and not powers(first.abstract):
        raise UserError(
            f"config.snapshot_every={config.snapshot_every} keeps power averages and no net has one; give a net "
            "ema=dict(name='power', std=0.05), or set config.snapshot_every=0"
        )
    checkpoints = Checkpoints(run.path, config.keep)
    averages = Averages(run.path, create=any(stage.config.snapshot_every for stage in stages))
    notes: list[str] = []  # what the plan says of where the weights come from

    def like(step: int) -> TrainState:
        stage = owner(stages, step)
        run.refuse_rewritten(step, checkpoints.story(step), stages[stage].config)
        return experiment(stage).abstract

    try:
        found = checkpoints.restore(like)
        if found:
            at, state = found[0], experiment(owner(stages, found[0])).lend(found[1])
        else:
            at, (state, notes) = 0, begin(first)
        if at >= config.steps:
            print(
                f"{run.path} is at step {at} already; raise config.steps (now {config.steps}) to go on", file=sys.stderr
            )
            return
        run.claim(config, write=parallel.is_lead())  # now that nothing refuses the config
        checkpoints.forget_after(at)
        averages.forget_after(at)
        with Interrupt() as interrupt, Hits() as hits:
            for i in range(owner(stages, at), len(stages)):
                exp = experiment(i)
                if i > owner(stages, at):  # a new phase: keep what fits, start the rest afresh
                    state, stayed = adopt(exp.init(), state)
                    state = jax.device_put(state, exp.shardings)
                    notes = [f"phase {i + 1}: {listed(stayed)} start afresh"] if stayed else []
                if at < stages[i].stop:
                    loop = Loop(exp, source(i), run, checkpoints, averages, interrupt, hits, began, config.steps, notes)
                    state, at = loop(state, at, stages[i].stop)
                if at < stages[i].stop:
                    return
    finally:
        checkpoints.close()
        averages.close()


def settled(config: ConfigDict, run: RunDir) -> ConfigDict:
    """The config with what its tasks find out of the data: from the run that is there already, or measured now.

    Runs that the tasks need are copied into the run's directory first, so that they are its own from the first step on.
    """
    if run.begun:
        old = run.config().tasks.to_dict()
        for name, task in config.tasks.to_dict().items():
            stored = {k: v for k, v in old.get(name, {}).items() if task.get(k) == () != v}  # left open now, found then
            config = override(config, {f"tasks.{name}.{k}": v for k, v in stored.items()})
        run.claim(config, write=False)
        return config
    if not config.tasks:
        return config
    source = open_source(config, "train")
    exp = Experiment.open(config, source.spec)
    if parallel.is_lead():
        for name, loan in {k: loan for stage in exp.stages for k, loan in stage.task.loans().items()}.items():
            run.keep(name, RunDir(loan.lender.path), loan.lender.at)
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


def gentler(config: ConfigDict) -> str:
    """What to change so that training does not diverge: each net's learning rate, and clipping where there is none."""
    nets = {f"method.{k}.optimizer": v.optimizer for k, v in config.method.items() if hasattr(v, "optimizer")}
    slower = " ".join(f"--config.{path}.lr={o.lr / 4:.2g}" for path, o in nets.items())
    clipped = " ".join(f"--config.{path}.clip=1.0" for path, o in nets.items() if not o.clip)
    return slower + (f", or with {clipped}" if clipped else "")


def listed(names: list[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Hits:
    """Counts programs that came out of the compilation cache, while it lasts."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Hits":
        jax.monitoring.register_event_listener(self.note)
        return self

    def note(self, event: str, **_: Any) -> None:
        """The listener."""
        self.count += "cache_hits" in event

    def __exit__(self, *_: Any) -> None:
        if hasattr(jax.monitoring, "unregister_event_listener"):  # jax < 0.8 has none: it counts on, to no harm
            jax.monitoring.unregister_event_listener(self.note)


class Loop:
    """One phase of a run: what is fixed while it lasts, and what the loop does at its borders."""

    def __init__(
        self, exp: Experiment, source: Source, run: RunDir, checkpoints: Checkpoints, averages: Averages,
        interrupt: Interrupt, hits: Hits, began: float, total: int, notes: list[str],
    ) -> None:  # fmt: skip
        self.exp, self.run, self.checkpoints, self.averages = exp, run, checkpoints, averages
        self.interrupt, self.hits, self.began, self.total, self.notes = interrupt, hits, began, total, notes
        self.config = exp.config
        self.source = source
        self.tests, self.held_out = evaluate.with_data(exp, evaluate.evaluators(exp))
        self.programs: dict[int, Callable] = {}
        self.fetcher = ThreadPoolExecutor(1)  # waits for the device in the loop's place
        self.counted, self.clock = 0, began  # the step and the time up to which images/s is accounted for

    def __call__(self, state: TrainState, at: int, stop: int) -> tuple[TrainState, int]:
        """From step `at` to `stop`, or to where a signal ends it -> (state, step)."""
        config, exp = self.config, self.exp
        self.data, self.batches = self.feed(at)
        self.writers = Writers(self.run.path, at, self.total, parallel.is_lead())
        if parallel.is_lead():
            self.run.record(self.exp.data, len(self.source), environment())
        try:
            self.plan(at, min(config.steps_per_call, stop - at))
            self.snapshot(state, at)  # a run killed between checkpoint and snapshot makes it now
            interval: list[PyTree] = []  # metrics still on the device
            since, first = at, True
            self.late: tuple[int, int, Future] | None = None  # the interval before: fetched while this one runs
            while at < stop:
                border = min([stop, *(at - at % n + n for n in (config.log_every, config.save_every, *self.rhythms()))])
                num = config.steps_per_call if border - at >= config.steps_per_call else 1
                state, metrics = self.program(num)(state, self.batches(at, num), self.data, exp.root)
                at += num
                interval.append(metrics)
                if first:
                    jax.block_until_ready(metrics)
                    self.writers.say(f"first step done {time.monotonic() - self.began:.1f} s after the start")
                    self.counted, self.clock, first = at, time.monotonic(), False  # compiling and loading are not speed
                self.writers.progress(at)
                halt = self.halted(at)
                ends = at >= stop or halt
                if at % config.log_every == 0 or ends:
                    self.log()
                    self.late, interval, since = (since, at, self.fetcher.submit(fetch, interval)), [], at
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

    def rhythms(self) -> list[int]:
        """Steps between evaluations, and between snapshots."""
        return [n for n in (self.config.snapshot_every, *(t.every for t in self.tests.values())) if n]

    def program(self, num: int) -> Callable:
        """The compiled program of `num` steps per dispatch."""
        if num not in self.programs:
            try:
                self.programs[num] = self.exp.compile_steps(num, self.data)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                raise UserError(
                    f"the step does not fit in the device's memory with config.data.batch={self.config.data.batch}; raise "
                    "method.microbatches, set method.net.remat=True, or shard with sharding=(('.*', 'fsdp'),)"
                ) from error
        return self.programs[num]

    def feed(self, at: int) -> tuple[dict[str, jax.Array], Callable[[int, int], PyTree]]:
        """(resident data or {}, function (step, num) -> num batches on the devices), reading on from step `at`."""
        exp, feed, mesh = self.exp, self.exp.feed, self.exp.mesh
        host = {"host": jax.process_index(), "hosts": jax.process_count()}
        fields = exp.read_spec
        row = sum(math.prod(f.shape) * np.dtype(f.dtype).itemsize for f in fields.values())
        size = len(self.source) * row
        room = feed.device_mb << 20 if jax.default_backend() != "cpu" else min(SMALL, feed.device_mb << 20)
        if feed.placement == "device" and exp.transforms:
            raise UserError(
                "config.data.placement='device' cannot run config.data.transforms (host); use config.data.augment"
            )
        if feed.placement == "device" or (feed.placement == "auto" and size <= room and not exp.transforms):
            limit = feed.device_mb << 20
            with tqdm(
                desc="loading",
                total=len(self.source),
                unit="img",
                delay=2,
                disable=None if parallel.is_lead() else True,
            ) as bar:
                whole = load_all(self.source, limit, lambda done, _: bar.update(done - bar.n), feed.workers)
            data = parallel.put_replicated(mesh, {k: whole[k] for k in fields})
            stream = index_stream(len(self.source), exp.batch, self.config.seed, **host)
            return data, lambda step, num: parallel.put_batch(
                mesh, {"i": np.stack([stream.batch_at(step + i) for i in range(num)])}, leading=1
            )["i"]
        stream = train_stream(
            self.source,
            exp.batch,
            self.config.seed,
            exp.transforms,
            workers=feed.workers,
            prefetch=feed.prefetch,
            fields=tuple(fields),
            **host,
        )
        iterator = stream.start(at)

        def batches(step: int, num: int) -> PyTree:
            parts = [next(iterator) for _ in range(num)]
            return parallel.put_batch(mesh, {k: np.stack([p[k] for p in parts]) for k in fields}, leading=1)

        return {}, batches

    def plan(self, at: int, num: int) -> None:
        """Compile, and say what is about to happen."""
        exp, config = self.exp, self.config
        start, before = time.monotonic(), self.hits.count
        num = num if num == config.steps_per_call else 1
        memory = self.program(num).memory_analysis()
        seconds = time.monotonic() - start
        held = "on the device" if self.data else "read by the host"
        rules = ", ".join(f"{pattern} {action}" for pattern, action in config.sharding)
        nets = {k: sum(x.size for x in jax.tree.leaves(n.params)) for k, n in exp.abstract.nets.items()}
        bytes_ = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(exp.abstract))
        updates = exp.batch // exp.feed.batch
        lines = {
            "run": f"{config.method.name} in {self.run.path}, steps {at} to {config.steps}",
            "data": f"{config.data.name}: {len(self.source):,} examples of {exp.read_spec}, {held}",
            "devices": f"{jax.device_count()} {jax.devices()[0].device_kind} on {jax.process_count()} host(s); mesh "
            f"{', '.join(f'{k}={v}' for k, v in exp.mesh.shape.items())}; {rules}",
            "nets": ", ".join(f"{k} {v:,} parameters" for k, v in nets.items()),
            "state": f"{bytes_ / 1e6:,.1f} MB (parameters, optimizer, averages)",
            "step": f"{exp.batch} images" + (f" ({updates} batches)" if updates > 1 else "") + f", {num} per dispatch",
            "memory": f"{memory.temp_size_in_bytes / 1e6:,.1f} MB of temporaries per device" if memory else "unknown",
            "compile": f"{seconds:.1f} s, {'from the cache' if self.hits.count > before else 'new'}",
        }
        if exp.stages:
            lines["seen"] = f"{exp.spec}, after {', '.join(type(stage.task).__name__.lower() for stage in exp.stages)}"
        notes = [*(("data", note) for note in self.source.notes), *(("weights", note) for note in self.notes)]
        self.writers.say("\n".join(f"{name:<9}{text}" for name, text in [*lines.items(), *notes]))

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
        rate = (stop - self.counted) * self.exp.batch / max(now - self.clock, 1e-9)
        speed = {"images_per_s": rate} if rate else {}  # none when the interval was the first dispatch alone
        self.counted, self.clock = stop, now
        means = {k: float(np.mean(np.concatenate([m[k] for m in fetched]), dtype=np.float64)) for k in fetched[0]}
        broken = [k for k, v in means.items() if not np.isfinite(v)]
        if broken:
            raise self.diverged(f"{', '.join(broken)} became NaN or infinite between steps {start + 1} and {stop}")
        self.writers.scalars(stop, {**means, **speed})
        first = {k: means[k] for k in [k for k in means if "loss" in k][:2] or list(means)[:1]}
        self.writers.console(stop, {**first, "images/s": rate})

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
        if not bool(self.exp.is_finite(state)):
            raise self.diverged(f"weights became NaN or infinite by step {at}")

    def save(self, state: TrainState, at: int) -> None:
        """Start a checkpoint of step `at`, unless the weights are broken."""
        self.refuse_broken(state, at)
        self.run.confirm()
        story = {"config": json.loads(to_json(self.config)), "spec": self.exp.data.to_json()}
        self.checkpoints.save(at, state, story)

    def evaluate(self, tests: dict[str, Evaluator], state: TrainState, at: int) -> None:
        """Run the evaluators that are due."""
        raw, ema = state.view(), state.view(ema=True)
        for name, report in evaluate.reports(self.exp, tests, raw, ema, self.held_out):
            if report.scalars:
                self.writers.scalars(at, report.scalars, prefix="eval")
                self.writers.say(f"step {at} {name}: " + "  ".join(f"{k} {v:.5g}" for k, v in report.scalars.items()))
            for label, images in report.images.items():
                self.writers.image(at, label, images, report.columns, report.captions)
        self.writers.draw()


def fetch(interval: list[PyTree]) -> tuple[list[PyTree], float]:
    """The metrics of an interval on the host, and when the device had finished it."""
    return jax.device_get(interval), time.monotonic()
