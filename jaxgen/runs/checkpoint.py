"""Checkpoints: everything a run must remember, written asynchronously and atomically. The only file that knows Orbax.

Averages are the snapshots from which averages of other lengths are reconstructed (jaxgen.runs.posthoc): they are never deleted.
"""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxgen.core.state import PyTree, TrainState, path_name
from jaxgen.errors import UserError

SLACK = 4 << 20  # bytes of metadata and of the logs beside a checkpoint
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save


def _saved(state: TrainState) -> dict[str, PyTree]:
    """The saved part of a state: all but the frozen weights, which live in checkpoints of their own."""
    return {"step": state.step, "nets": state.nets, "extra": state.extra}


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

    def write(self, step: int, tree: PyTree, **more: Any) -> None:
        """Start writing; the tree may be donated as soon as this returns. A step that is there stays."""
        if step in self.steps():
            return
        need = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) + SLACK
        if (free := shutil.disk_usage(self.folder).free) < need:  # before Orbax leaves half a checkpoint behind
            raise self._failed(step, OSError(f"{need / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free"))
        try:
            self.manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree), **more), force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(step, error) from error

    def read(self, step: int, like: PyTree) -> PyTree:
        """The tree of a step, on the shardings of `like`; a tree of other leaves, shapes or dtypes is a UserError."""
        self.refuse_other(step, like)
        args = ocp.args.PyTreeRestore(item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like))
        return self.manager.restore(step, args=ocp.args.Composite(state=args))["state"]

    def refuse_other(self, step: int, like: PyTree) -> None:
        """A UserError that names the first leaf in which a model differs from what is saved."""
        saved = _facts(ocp.PyTreeCheckpointHandler().metadata(self.folder / str(step) / "state").tree)
        wanted = _facts(like)
        for name in sorted({*saved, *wanted}):
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
        self.write(step, _saved(state), story=ocp.args.JsonSave(story))

    def story(self, step: int) -> dict[str, Any]:
        """What was told to `save`; {} when it cannot be read."""
        try:
            return self.manager.restore(step, args=ocp.args.Composite(story=ocp.args.JsonRestore()))["story"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def restore(self, like: Callable[[int], TrainState], step: int = -1) -> tuple[int, TrainState] | None:
        """The newest readable checkpoint (or that of `step`) -> (step, state) on `like`'s shardings; None if there is none.

        `like(step)` is the abstract state at a step; its leaves carry shardings (of any mesh). A damaged checkpoint is passed over
        with one warning that names it; if every one is damaged, or `step` is, that is a UserError.
        """
        whole = self.steps()
        if step >= 0 and step not in whole:
            raise UserError(f"there is no checkpoint of step {step} in {self.folder}; there are: {whole}")
        candidates = [step] if step >= 0 else whole[::-1]
        problem: Exception | None = None
        for at in candidates:
            target = like(at)
            try:
                return at, target.replace(**self.read(at, _saved(target)))
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                problem = error
                if at != candidates[-1]:
                    warnings.warn(
                        f"checkpoint {at} in {self.folder} is damaged ({_line(error)}); falling back to an older one",
                        stacklevel=2,
                    )
        if problem is None:
            return None
        raise UserError(
            f"checkpoint {candidates[-1]} in {self.folder} cannot be read ({_line(problem)}); "
            "delete that folder to start afresh, or choose another --workdir"
        )

    def trained(self, like: Callable[[int], TrainState], step: int = -1) -> tuple[int, TrainState]:
        """`restore` for sampling and evaluation, which cannot do without a checkpoint."""
        found = self.restore(like, step)
        if found is None:
            raise UserError(f"there is no checkpoint in {self.folder}; train first: add --config=...")
        return found


class Averages(Steps):
    """Snapshots of a run's power-function averages, {net: {label: params}}."""

    folder_name, what, cure = "averages", "snapshot", "raise config.snapshot_every"

    def __init__(self, workdir: str | Path, read_only: bool = False, create: bool = True) -> None:
        super().__init__(workdir, None, read_only, create=create and not read_only)

    def restore(self, step: int, like: PyTree) -> PyTree:
        """A snapshot on the shardings of `like`; one that cannot be read is a UserError."""
        try:
            return self.read(step, like)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            raise UserError(
                f"snapshot {step} in {self.folder} cannot be read ({_line(error)}); delete that folder to do without it"
            ) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def _facts(tree: PyTree) -> dict[str, str]:
    """Path -> shape and dtype of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(p): f"{tuple(x.shape)} {x.dtype}" for p, x in leaves}
