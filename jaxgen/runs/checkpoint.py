"""Checkpoints: everything a run must remember, written asynchronously and atomically. The only file that knows Orbax.

A checksum of every array is written with it, of the whole array whatever the devices it lay on, and compared when it is read: the
format itself notices some damage and gives other numbers after the rest.

Averages are the snapshots from which averages of other lengths are reconstructed (jaxgen.runs.posthoc): they are never deleted.
"""

import gc
import json
import logging
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxgen.core import parallel
from jaxgen.core.state import PyTree, TrainState, path_name
from jaxgen.errors import UserError

SLACK = 4 << 20  # bytes of metadata and of the logs beside a checkpoint
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save


class Damaged(UserError):
    """What is read is not what was written."""


def checksums(tree: PyTree) -> dict[str, int]:
    """Path -> CRC-32 of every leaf, whole, on whatever devices and hosts it lies (collective where there are several hosts)."""

    def whole(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and x.is_fully_replicated:
            return jax.device_get(x.addressable_data(0))  # a copy that goes at once: an array keeps what it gave
        return jax.device_get(x) if getattr(x, "is_fully_addressable", True) else parallel.to_host(x)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(p): zlib.crc32(np.ascontiguousarray(whole(x)).reshape(-1).view(np.uint8)) for p, x in leaves}


def _checksum(story: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(story, sort_keys=True).encode())


def _saved(state: TrainState) -> dict[str, PyTree]:
    """The saved part of a state: all but the frozen weights, which live in checkpoints of their own."""
    return {"step": state.step, "nets": state.nets, "extra": state.extra}


def _shown(state: TrainState) -> dict[str, PyTree]:
    """Of the saved part, what `TrainState.view` shows: optimizers stay where they are."""
    nets = {name: {k: getattr(net, k) for k in ("params", "vars", "ema")} for name, net in state.nets.items()}
    return {**_saved(state), "nets": nets}


def saved(workdir: str | Path) -> list[int]:
    """Steps of the whole checkpoints in a run directory, oldest first: a look at the folder, in which no host waits for another."""
    folder = Path(workdir).resolve() / Checkpoints.folder_name
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


class Steps:
    """A folder of numbered trees; each is there whole or not at all."""

    folder_name: str
    what: str
    cure: str  # for a full disk

    def __init__(self, workdir: str | Path, keep: int | None, read_only: bool, create: bool) -> None:
        self.folder = Path(workdir).resolve() / self.folder_name
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            read_only=read_only,
            create=create,
            enable_async_checkpointing=True,
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options) if create or self.folder.is_dir() else None

    def steps(self) -> list[int]:
        """Steps that are complete, oldest first."""
        return sorted(self.manager.all_steps()) if self.manager else []

    def write(self, step: int, tree: PyTree, story: dict[str, Any] | None = None) -> None:
        """Start writing; the tree may be donated as soon as this returns. A step that is there stays."""
        if step in self.steps():
            return
        need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) + SLACK
        if (free := shutil.disk_usage(self.folder).free) < need:  # before Orbax leaves half a checkpoint behind
            raise self._failed(step, OSError(f"{need / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free"))
        told = {"checksums": {"arrays": checksums(tree), "story": _checksum(story or {})}}
        told |= {"story": story} if story else {}
        parts = {name: ocp.args.JsonSave(value) for name, value in told.items()}
        try:
            self.manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree), **parts), force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(step, error) from error

    def read(self, step: int, like: PyTree, part: bool = False) -> PyTree:
        """The tree of a step, on the shardings of `like`; Damaged, or a UserError for other leaves, shapes or dtypes.

        With `part` the tree may lack branches of what is saved, which are not read.
        """
        with _unheard():
            tree = self._read(step, like, part)
        if written := self._told(step, "checksums"):  # versions before 0.2 wrote none
            wrong = [name for name, value in checksums(tree).items() if written["arrays"].get(name) != value]
            if parallel.agree(bool(wrong)):
                raise self._damaged(step, f"{wrong[0] if wrong else 'an array'} is not what was written")
        return tree

    def _read(self, step: int, like: PyTree, part: bool) -> PyTree:
        try:
            self.refuse_other(step, like, part)
            places = ocp.checkpoint_utils.construct_restore_args(like)
            args = ocp.args.PyTreeRestore(item=like, restore_args=places, partial_restore=part)
            return self.manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            why = _line(error)
        raise self._damaged(step, why)  # here, where the error and all that it holds are gone

    def story(self, step: int) -> dict[str, Any]:
        """What was told to `write`, {} where nothing was."""
        story, written = self._told(step, "story"), self._told(step, "checksums")
        if written and written["story"] != _checksum(story):
            raise self._damaged(step, "its story is not what was written")
        return story

    def _told(self, step: int, name: str) -> dict[str, Any]:
        """The JSON beside a step's arrays, {} where there is none."""
        if not self.manager or not (self.folder / str(step) / name).is_dir():
            return {}
        try:
            args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
            return self.manager.restore(step, args=args)[name]
        except Exception as error:  # as above
            raise self._damaged(step, _line(error)) from error

    def _damaged(self, step: int, why: str) -> Damaged:
        return Damaged(f"{self.what} {step} in {self.folder} is damaged ({why})")

    def refuse_other(self, step: int, like: PyTree, part: bool) -> None:
        """A UserError that names the first leaf in which a model differs from what is saved."""
        saved = _facts(ocp.PyTreeCheckpointHandler().metadata(self.folder / str(step) / "state").tree)
        wanted = _facts(like)
        for name in sorted(wanted if part else {*saved, *wanted}):
            there, here = saved.get(name, "missing"), wanted.get(name, "missing")
            if there != here:
                raise UserError(
                    f"{self.what} {step} in {self.folder} is of another model: {name} is {there} there and {here} here; "
                    "use the config that it was trained with, or start from it by --config.init=DIR in another --workdir"
                )

    def wait(self) -> None:
        """Until everything is on disk; a failed write is a UserError here."""
        if not self.manager:  # a run without snapshots has no folder of averages
            return
        try:
            self.manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed("the last save", error) from error

    def forget_after(self, step: int) -> None:
        """Delete what is newer than `step`, which the run will make again."""
        for newer in [s for s in self.steps() if s > step]:
            self.manager.delete(newer)

    def forget_old(self, keep: int) -> None:
        """Delete all but the newest `keep`: where that number was lowered, there is room before the next is written."""
        for older in self.steps()[:-keep]:
            self.manager.delete(older)

    def close(self) -> None:
        """Wait and release."""
        self.wait()
        if self.manager:
            self.manager.close()

    def _failed(self, step: Any, error: Exception) -> UserError:
        whole = self.steps()
        # an asynchronous failure surfaces in whatever call comes next
        last = f"the last good one is step {whole[-1]}" if whole else "there is none before it"
        reason = str(error).strip().split("\n")[0][:200]
        return UserError(
            f"{self.what} {step} could not be written to {self.folder}: {reason}; {last}. "
            f"Free some space (or {self.cure}) and run the same command again"
        )


class Checkpoints(Steps):
    """The checkpoints of one run directory."""

    folder_name, what, cure = "checkpoints", "checkpoint", "lower config.keep"

    def __init__(self, workdir: str | Path, keep: int = 3, read_only: bool = False) -> None:
        super().__init__(workdir, keep, read_only, create=not read_only)

    def save(self, step: int, state: TrainState, story: dict[str, Any]) -> None:
        """Start writing; the state may be donated as soon as this returns. `story`: the phase's config and the data's Spec."""
        self.write(step, _saved(state), story)

    def restore(
        self, like: Callable[[int], TrainState], step: int = -1, part: bool = False
    ) -> tuple[int, TrainState] | None:
        """The newest whole checkpoint (or that of `step`) -> (step, state) on `like`'s shardings; None if there is none.

        `like(step)` is the abstract state at a step; its leaves carry shardings (of any mesh). With `part` no optimizer is read,
        nor at step 0, where nothing has been trained: what was imported has none.
        A damaged checkpoint is passed over with one warning that names it; if every one is damaged, or `step` is, that is a
        UserError.
        """
        whole = self.steps()
        if step >= 0 and step not in whole:
            raise UserError(f"there is no checkpoint of step {step} in {self.folder}; there are: {whole}")
        candidates = [step] if step >= 0 else whole[::-1]
        for at in candidates:
            try:
                target = like(at)
                if at and not part:
                    return at, target.replace(**self.read(at, _saved(target)))
                found = self.read(at, _shown(target), part=True)
                nets = {name: net.replace(opt=(), **found["nets"][name]) for name, net in target.nets.items()}
                return at, target.replace(**{**found, "nets": nets})
            except Damaged as error:
                if step < 0 and not (self.folder / str(at)).is_dir():  # deleted by a training that goes on meanwhile
                    self.manager.reload()
                    return self.restore(like, part=part)
                if at == candidates[-1]:
                    cure = "name another --step" if step >= 0 else "restore it, or start afresh in another --workdir"
                    raise UserError(
                        f"{error}{'' if len(candidates) == 1 else ', and so are all others'}; {cure}"
                    ) from error
                older = candidates[candidates.index(at) + 1]
                warnings.warn(f"{error}; falling back to step {older}", stacklevel=2)
        return None

    def trained(self, like: Callable[[int], TrainState], step: int = -1) -> tuple[int, TrainState]:
        """`restore` for sampling and evaluation, which cannot do without a checkpoint; optimizers stay where they are."""
        found = self.restore(like, step, part=True)
        if found is None:
            raise UserError(f"there is no checkpoint in {self.folder}; train first: add --config=...")
        return found


class Averages(Steps):
    """Snapshots of a run's power-function averages, {net: {label: params}}."""

    folder_name, what, cure = "averages", "snapshot", "raise config.snapshot_every"

    def __init__(self, workdir: str | Path, read_only: bool = False, create: bool = True) -> None:
        super().__init__(workdir, None, read_only, create=create and not read_only)

    def restore(self, step: int, like: PyTree) -> PyTree:
        """A snapshot on the shardings of `like`; one that is damaged is a UserError."""
        try:
            return self.read(step, like)
        except Damaged as error:
            raise UserError(f"{error}; delete {self.folder / str(step)} to do without it") from error


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing is printed of what fails in the background: where one array cannot be read, every other gives a page of its own.

    Reads that were given up still call back later, to a loop that is closed; these stay unheard.
    """
    heard = sys.unraisablehook

    def but_late_calls(told: Any) -> None:
        if "Event loop is closed" not in str(told.exc_value):
            heard(told)

    sys.unraisablehook, after = lambda _: None, heard
    try:
        yield
    except Damaged:
        gc.collect()  # what is left of the other reads
        after = but_late_calls
        raise
    finally:
        sys.unraisablehook = after


def _line(error: Exception) -> str:
    """In one line, without what libraries say of their own insides."""
    text = re.split(r"\s*(?:\.? See full|Source location|\[)", " ".join(str(error).split()))[0][:100]
    return text or type(error).__name__


def _facts(tree: PyTree) -> dict[str, str]:
    """Path -> shape and dtype of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(p): f"{tuple(x.shape)} {x.dtype}" for p, x in leaves}
