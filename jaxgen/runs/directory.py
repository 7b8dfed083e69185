"""A run directory tells its whole story and is the only handle to it.

config.json   the config, every default spelled out
run.json      the data's Spec, versions, commit, devices, command of every start
lock          who trains here now (jaxgen.runs.lock)
checkpoints/  averages/  metrics.jsonl  tensorboard/  samples/  loss.png  results.jsonl  frozen/
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxgen.config import files as configs
from jaxgen.core import parallel
from jaxgen.core.given import expand
from jaxgen.core.lender import Lender
from jaxgen.core.spec import Spec
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.runs.checkpoint import Checkpoints, saved
from jaxgen.runs.experiment import restores, taught, untaught
from jaxgen.runs.lock import Lock
from jaxgen.runs.writers import write_text

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets")

# What may change between two starts of the same run without making it another run: what is logged, kept and drawn; how the work
# is laid out; how the optimizers go on, since a run that diverged must be able to. A checkpoint keeps the config that made it.
FREE = re.compile(
    r"(steps|log_every|save_every|keep|snapshot_every|steps_per_call|mesh|sharding|eval|watch|phases|since|init"
    r"|data\.(placement|device_mb|workers|prefetch|data_dir|eval_path|eval_split)|method\.(solver|guide|nll|process\.whole_clock|microbatches|truncate|stats|standing|draw|temperature|pixels|passes|doubt|first|beam|length_penalty))\b.*"
    r"|.*\.(path|remat|dtype)"
    r"|data\.tokenizer(\.\d+)?\.chunks|method\.text_encoder(\.\d+)?\.cache"
    r"|tasks\.shrink\.noise"  # of small pictures: training has all levels, samples one
    r"|.*\.schedule_steps"
    r"|.*\.optimizer\.(lr|warmup|schedule|final|hold|clip|weight_decay|decay|b1|b2|rho|eps|eps_in_root)"
)
OLD = "was written by a jaxgen that stored no Spec of its data (0.1); train it anew, or keep that version for it"


class RunDir:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(expand(path))
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={self.path} is a file; name a directory")
        self.lock: Lock | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The right to write here, which one training at a time has: a UserError on every host where another has it."""
        refused: Exception | None = None
        try:
            self.lock = Lock(self.path).__enter__() if parallel.is_lead() else None
        except (UserError, OSError) as error:
            refused = error
        if parallel.agree(refused is not None):
            raise refused or UserError(f"--workdir={self.path} was refused to the first host; its message says why")
        try:
            yield
        finally:
            if self.lock:
                self.lock.__exit__()

    def confirm(self) -> None:
        """A UserError where another training has taken over, before anything is written under it."""
        if self.lock:
            self.lock.confirm()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint: a directory without one belongs to no config."""
        return (self.path / "config.json").is_file() and bool(saved(self.path))

    def config(self) -> ConfigDict:
        """The config of the run that lives here."""
        file = self.path / "config.json"
        if not file.is_file():
            raise UserError(f"--workdir={self.path} holds no run (no config.json); train one first: add --config=...")
        self.data()
        try:
            return configs.from_json(file.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is not valid JSON ({error}); restore it or choose another --workdir") from None

    def claim(self, config: ConfigDict, write: bool = True) -> None:
        """Make this the directory of `config`; refuse when another model has trained here."""
        if self.begun:
            self.refuse_other(config)
        if write:
            write_text(self.path / "config.json", configs.to_json(config))

    def refuse_other(self, config: ConfigDict) -> None:
        """A UserError unless `config` is the run's but for what may change after training has begun."""
        old = self.config()
        if old.method.name != config.method.name:
            raise UserError(
                f"--workdir={self.path} belongs to method {old.method.name!r} and the config says "
                f"{config.method.name!r}; choose another --workdir"
            )
        if learned := [name for name in untaught(config) if name in old.tasks and name not in untaught(old)]:
            raise UserError(
                f"--workdir={self.path} has learned what task {learned[0]} is about, and needs no restorer; leave "
                "--config.method.restorer out"
            )
        self._refuse(old, config)

    def refuse_rewritten(self, step: int, story: dict[str, Any], config: ConfigDict) -> None:
        """A UserError where `config`, of the phase that owns a checkpoint's step, is not the one that made it."""
        if "config" in story:
            made = configs.from_json(json.dumps(story["config"]))
            self._refuse(made, config, f" up to step {step}")

    def changed_data(self, step: int, old: dict[str, Any], new: dict[str, Any], allow: bool) -> str:
        """What changed since a checkpoint between two `facts` of the data, in words; a UserError unless it can and may be."""
        words, fits = Spec.from_json(old["spec"]).changed(Spec.from_json(new["spec"]))
        since = f"the data of --workdir={self.path} changed since step {step}"
        if not fits:
            raise UserError(
                f"{since}: {words}; give back what was there, or start from this run's weights with "
                f"--config.init={self.path} in another --workdir"
            )
        words = "; ".join(filter(None, [words, _other_examples(old, new)]))
        if words and not allow:
            raise UserError(
                f"{since}: {words}; give back what was there, or go on with what is there now by --allow-data-change"
            )
        return f"changed since step {step}, as allowed: {words}" if words else ""

    def other_data(self, now: dict[str, Any]) -> str:
        """That figures are taken on other data than the run was trained on, in words; "" where they are not."""
        words = _other_examples(self.data(), now)
        return f"the data are not those that {self.path} was trained on: {words}" if words else ""

    def _refuse(self, old: ConfigDict, config: ConfigDict, when: str = "") -> None:
        differences = configs.differences(taught(old), taught(config))
        changed = [d for d in differences if not FREE.fullmatch(d.partition(":")[0])]
        if changed:
            tasks = not restores(config) and all(d.startswith("tasks.") for d in changed)
            restorer = "pigdm" if "solver" in config.method else "latent"
            undo = f", have the task undone by --config.method.restorer={restorer}" * (
                tasks and "restorer" in config.method
            )
            listed = "; config.".join(changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"--workdir={self.path} holds a run of another config{when} (config.{listed}{more}), which cannot "
                f"change after training; leave it out{undo}, or train anew in another --workdir"
            )

    def changed(self, changes: Mapping[str, Any]) -> ConfigDict:
        """The run's config with changes by path, which hold for one call; those of what was trained are a UserError."""
        config = self.config()
        if changes:
            config = configs.override(config, dict(changes))
            self.refuse_other(config)
        return config

    def record(self, data: dict[str, Any], environment: dict[str, Any]) -> None:
        """Add a start of the run to run.json, with the `facts` of its data."""
        file = self.path / "run.json"
        story = json.loads(file.read_text()) if file.is_file() else {"starts": []}
        start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **environment}
        start |= {"data": {key: data[key] for key in ("num", "fingerprint") if key in data}}
        story |= {"data": data, "starts": [*story["starts"], start]}
        write_text(file, json.dumps(story, indent=2))

    def data(self) -> dict[str, Any]:
        """What run.json says of the data of the last start: its `facts`; {} before the first."""
        file = self.path / "run.json"
        stored = json.loads(file.read_text())["data"] if file.is_file() else {}
        if stored and "spec" not in stored:
            raise UserError(f"--workdir={self.path} {OLD}")
        return stored

    def told(self, name: str) -> dict[str, Any]:
        """What `tell` has put into run.json; {} where nothing was."""
        file = self.path / "run.json"
        return json.loads(file.read_text()).get(name, {}) if file.is_file() else {}

    def tell(self, name: str, facts: dict[str, Any]) -> None:
        """Keep something that was found out of the run in run.json, where that can be written."""
        file = self.path / "run.json"
        if file.is_file() and os.access(self.path, os.W_OK):
            write_text(file, json.dumps(json.loads(file.read_text()) | {name: facts}, indent=2))

    def spec(self, step: int = -1) -> Spec:
        """The Spec of the data that made a checkpoint (-1: of the last start), so that sampling does not need the data."""
        stored = (Checkpoints(self.path, read_only=True).story(step) if step >= 0 else {}) or self.data()
        if not stored:
            raise UserError(f"--workdir={self.path} holds no run (no run.json); train one first: add --config=...")
        return Spec.from_json(stored["spec"])

    def keep(self, name: str, lender: Lender) -> None:
        """Copy what is needed of what is lent, as frozen/`name`: this directory alone is then enough to sample."""
        place, part = self.path / "frozen" / name, self.path / "frozen" / f"{name}.part"
        for old in (place, part):  # of a start that led to nothing
            shutil.rmtree(old, ignore_errors=True)
        lender.copy_to(part)
        part.rename(place)

    def keep_files(self, name: str, files: Sequence[Path]) -> None:
        """Copy files, as the folder frozen/`name`."""
        place = self.path / "frozen" / name
        for file in files:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.name)

    def note(self, step: int, name: str, told: dict[str, Any]) -> bool:
        """Keep something beside the checkpoint of a step, for as long as that is kept; False where there is none."""
        if step not in saved(self.path):
            return False
        write_text(self.path / Checkpoints.folder_name / str(step) / f"{name}.json", json.dumps(told, indent=2))
        return True

    def noted(self, step: int, name: str) -> dict[str, Any]:
        """What `note` has kept; {} where nothing was."""
        file = self.path / Checkpoints.folder_name / str(step) / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def result(self, record: dict[str, Any]) -> None:
        """Append to results.jsonl, in one piece: others may do so at the same time, and one before may have died halfway."""
        with (self.path / "results.jsonl").open("ab+", buffering=0) as file:
            file.seek(max(0, file.seek(0, 2) - 1))
            broken = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * broken + json.dumps(record, allow_nan=False).encode() + b"\n")


def _other_examples(old: dict[str, Any], new: dict[str, Any]) -> str:
    """How two `facts` of data with the same Spec differ, in words."""
    if old.get("num", new["num"]) != new["num"]:
        return f"{old['num']:,} -> {new['num']:,} examples"
    if old.get("fingerprint", new["fingerprint"]) != new["fingerprint"]:
        return f"{new['num']:,} examples as before, but not the same ones, or in another order"
    return ""


def facts(source: Source) -> dict[str, Any]:
    """What a run remembers of a split of its data, without having read it: Spec, number and fingerprint."""
    return {"spec": source.spec.to_json(), "num": len(source), "fingerprint": getattr(source, "fingerprint", str)()}


def environment() -> dict[str, Any]:
    """Versions, devices, commit and command: what a result depends on besides the config."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "jaxgen": sys.modules["jaxgen"].__version__,  # the package imports this room, not the other way round
        "commit": commit,
        "command": " ".join(["python -m jaxgen.main", *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "devices": [d.device_kind for d in jax.devices()][:1] * jax.device_count(),
        "hosts": jax.process_count(),
    }
