"""A run directory tells its whole story and is the only handle to it.

config.json   the config, every default spelled out
run.json      data facts, versions, commit, devices, command of every start
checkpoints/  averages/  metrics.jsonl  tensorboard/  samples/  loss.png  results.jsonl
"""

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxgen import __version__
from jaxgen.config import files as configs
from jaxgen.data.sources import Info
from jaxgen.errors import UserError
from jaxgen.runs.writers import write_text

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets")

# What may change between two starts of the same run without making it another run
FREE = ("steps", "log_every", "save_every", "keep", "snapshot_every", "steps_per_call", "mesh", "sharding", "eval", "phases",
        "data.placement", "data.device_mb", "data.workers", "data.prefetch", "data.data_dir", "data.path",
        "method.solver", "method.guide", "method.nll", "method.teacher.path")  # fmt: skip


class RunDir:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={self.path} is a file; name a directory")

    def config(self) -> ConfigDict:
        """The config of the run that lives here."""
        file = self.path / "config.json"
        if not file.is_file():
            raise UserError(f"--workdir={self.path} holds no run (no config.json); train one first: add --config=...")
        try:
            return configs.from_json(file.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is not valid JSON ({error}); restore it or choose another --workdir") from None

    def claim(self, config: ConfigDict, write: bool = True) -> None:
        """Make this the directory of `config`; refuse when another model lives here."""
        if (self.path / "config.json").is_file():
            self.check(config)
        if write:
            write_text(self.path / "config.json", configs.to_json(config))

    def check(self, config: ConfigDict) -> None:
        """A UserError unless `config` is the run's but for what may change."""
        old = self.config()
        if old.method.name != config.method.name:
            raise UserError(
                f"--workdir={self.path} belongs to method {old.method.name!r} and the config says "
                f"{config.method.name!r}; choose another --workdir"
            )
        changed = [d for d in configs.differences(old, config) if not d.startswith(FREE)]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"--workdir={self.path} holds a run of another config ({'; '.join(changed[:3])}{more}); "
                "choose another --workdir or the same values"
            )

    def record(self, info: Info, environment: dict[str, Any]) -> None:
        """Add a start of the run to run.json."""
        file = self.path / "run.json"
        story = json.loads(file.read_text()) if file.is_file() else {"starts": []}
        story["data"] = {"shape": info.shape, "classes": info.classes, "num": info.num, "label_names": info.label_names}
        story["starts"].append({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **environment})
        write_text(file, json.dumps(story, indent=2))

    def info(self) -> Info:
        """The data's facts, so that sampling does not need the data."""
        file = self.path / "run.json"
        if not file.is_file():
            raise UserError(f"--workdir={self.path} holds no run (no run.json); train one first: add --config=...")
        data = json.loads(file.read_text())["data"]
        return Info(tuple(data["shape"]), data["classes"], data["num"], tuple(data["label_names"]))

    def result(self, record: dict[str, Any]) -> None:
        """Append to results.jsonl."""
        with (self.path / "results.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


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
        "jaxgen": __version__,
        "commit": commit,
        "command": " ".join(["python -m jaxgen.main", *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "devices": [d.device_kind for d in jax.devices()][:1] * jax.device_count(),
        "hosts": jax.process_count(),
    }
