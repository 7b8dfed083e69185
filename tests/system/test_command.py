"""The command line as a person uses it: help, mistakes, interruption, resumption, two processes, a full disk."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import QUICK_COMPILATION, ROOT
from PIL import Image

from jaxgen import compare, main
from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.runs.directory import RunDir
from jaxgen.train import train

CONFIG = "configs/vae_digits.py:tiny"


def command(*args, **env) -> list[str]:
    return [sys.executable, "-m", "jaxgen.main", *map(str, args)]


def environment(**extra) -> dict[str, str]:
    """One CPU device, and what compiles quickly: the values do not matter here."""
    return {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu", **extra}


def run(*args, **env):
    return subprocess.run(
        command(*args), cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "vae"
    done = run(f"--config={CONFIG}", f"--workdir={path}")
    assert done.returncode == 0, done.stderr
    return path


def test_without_arguments_it_helps():
    done = run()
    assert done.returncode == 0
    for word in ("--workdir", "--mode", "\n  ddpm_cifar ", "\n  vae_digits ", "resume"):
        assert word in done.stdout


def test_a_run_says_what_it_does_and_leaves_its_story(trained):
    assert {p.name for p in trained.iterdir()} >= {
        "config.json", "run.json", "checkpoints", "metrics.jsonl", "tensorboard", "samples", "loss.png",
    }  # fmt: skip
    story = json.loads((trained / "run.json").read_text())
    assert story["data"]["spec"]["image"]["shape"] == [8, 8, 1]
    start = story["starts"][0]
    assert start["versions"]["jax"] and start["commit"] and CONFIG in start["command"] and start["devices"]


def test_a_run_is_readable_by_those_whom_the_umask_lets(trained):
    umask = os.umask(0)
    os.umask(umask)
    for path in (trained, *trained.rglob("*")):
        want = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == want & ~umask, path


def test_the_workdir_alone_samples_evaluates_and_goes_on(trained):
    done = run(f"--workdir={trained}", "--mode=sample", "--num=9", "--files")
    assert done.returncode == 0, done.stderr
    picture = Path(re.search(r": (\S+\.png)", done.stderr)[1])
    assert Image.open(picture).width >= 320
    assert np.load(picture.with_suffix(".npz"))["images"].shape == (9, 8, 8, 1)
    assert len(list(picture.with_suffix("").glob("*.png"))) == 9
    told = {f"--config.method.{k}" for k in ("pixels=sample", "iwae_samples=2")}
    done = run(f"--workdir={trained}", "--mode=show", "--json", *told)
    assert json.loads(done.stdout)["method"]["iwae_samples"] == 2  # what a change would be, and below: what is changed
    done = run(f"--workdir={trained}", "--mode=eval")
    assert done.returncode == 0 and "elbo" in done.stdout
    assert json.loads((trained / "results.jsonl").read_text().splitlines()[-1])["step"] == 4
    done = run(f"--workdir={trained}")
    assert done.returncode == 0 and "already" in done.stderr
    done = run(f"--workdir={trained}", "--config.steps=6")
    assert done.returncode == 0 and "from step 4 to 6" in done.stderr


def test_show_prints_every_key():
    done = run(f"--config={CONFIG}", "--mode=show", "--json", "--config.seed=5")
    assert json.loads(done.stdout)["seed"] == 5 and json.loads(done.stdout)["method"]["net"]["optimizer"]["b1"] == 0.9


MISTAKES = {
    "unknown key": (["--config.method.net.latnet=3"], ["config.method.net.latnet", "did you mean 'latent'"]),
    "unknown name": (["--config.method.likelihood=bernouli"], ["did you mean 'bernoulli'"]),
    "wrong type": (["--config.steps=soon"], ["config.steps='soon' must be a whole number"]),
    "missing value": (["--config.steps"], ["--config.steps needs a value"]),
    "batch and devices": (
        ["--config.data.batch=12"],
        ["config.data.batch=12 is not divisible by 8 devices", "--config.data.batch=8", "--config.mesh.data=6"],
    ),
    "missing folder": (["--config.data=folder", "--config.data.path=nowhere"], ["nowhere"]),
    "missing data set": (
        ["--config.data=tfds", "--config.data.dataset=mnist", "--config.data.data_dir=nowhere"],
        ["mnist", "prepare"],
    ),
    "unlabelled": (["--config.data=arrays", "--config.data.path=PLAIN", "--config.data.labels=True"], ["labels"]),
    "unknown mesh": (["--config.mesh.data=3", "--config.mesh.model=5"], ["mesh="]),
    "sharding rule": (["--config.sharding=(('gen', 'fsdp'),)"], ["no sharding rule matches"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_with_a_cure(case, tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros((20, 8, 8, 1), np.uint8))
    args, words = MISTAKES[case]
    args = [a.replace("PLAIN", str(tmp_path / "plain.npy")) for a in args]
    done = run(
        f"--config={CONFIG}",
        f"--workdir={tmp_path / 'run'}",
        *args,
        XLA_FLAGS=f"--xla_force_host_platform_device_count=8 {QUICK_COMPILATION}",
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_mistakes_about_the_run_directory(trained, tmp_path):
    cases = [
        ([f"--workdir={tmp_path}/none", "--mode=sample"], "holds no run"),
        ([f"--workdir={trained}", "--config=configs/vqvae_digits.py:tiny"], "belongs to method 'vae'"),
        ([f"--workdir={trained}", f"--config={CONFIG}", "--config.method.net.latent=3"], "method.net.latent"),
        ([f"--workdir={trained}", "--mode=sample", "--labels=3"], "is told no labels"),
        (
            [f"--workdir={trained}", "--mode=sample", "--ask=ink=1"],
            "the run knows no condition 'ink'; it is told nothing",
        ),
        ([f"--workdir={trained}", "--mode=sample", "--ask=ink"], "--ask=ink must say a value"),
        (
            [f"--workdir={trained}", "--mode=sample", "--config.method.net.latent=3"],
            "which cannot change after training",
        ),
        (
            ["--config=vqvae_digits:tiny", f"--workdir={tmp_path}/y", "--config.data.labels=True"],
            "vqvae cannot be told 'label'",
        ),
        ([f"--config={CONFIG}", f"--workdir={tmp_path}/y", "--config.tasks.hid={}"], "did you mean 'hide'"),
        (
            [f"--config={CONFIG}", f"--workdir={tmp_path}/y", "--config.init=nowhere"],
            "config.init.path=nowhere holds no run",
        ),
        ([f"--workdir={trained}", "--mode=sample", "--num=0"], "--num=0"),
        # a config beside the run's own: the same is taken, with or without its changes; another one is not ignored
        ([f"--workdir={trained}", f"--config={CONFIG}", "--mode=sample", "--num=0"], "--num=0"),
        (
            [f"--workdir={trained}", f"--config={CONFIG}", "--mode=eval", "--config.eval.loss.num=7", "--step=3"],
            "no checkpoint of step 3",
        ),
        (
            [f"--workdir={trained}", "--config=vqvae_digits:tiny", "--mode=sample"],
            "--config=vqvae_digits:tiny is another config than that of the run",
        ),
        (
            [f"--workdir={trained}", "--config=vae_digits", "--mode=eval"],
            "leave it out: --mode=eval takes the run's own, and --config.KEY=VALUE changes keys",
        ),
        (
            [f"--workdir={trained}", "--mode=eval", "--num=5"],
            "--num is for --mode=sample and --mode=caption, not for --mode=eval",
        ),
        ([f"--workdir={trained}", "--weights=raw"], "--weights is for --mode=eval and --mode=sample"),
        ([f"--workdir={trained}", "--mode=sweep", "--weights=raw"], "name the averages by --stds=0.05,0.1"),
        ([f"--workdir={trained}", "--mode=eval", "--step=3"], "no checkpoint of step 3"),
        ([f"--config={CONFIG}"], "--workdir=DIR is missing"),
        (["--config=configs/vae_digit.py", f"--workdir={tmp_path}/x"], "did you mean 'configs/vae_digits.py'"),
        ([f"--config={CONFIG}", f"--workdir={ROOT}/setup.cfg"], "is a file"),
    ]
    for args, words in cases:  # in this process: that such a line ends the command is the law above
        with pytest.raises(UserError, match=re.escape(words)) as error:
            main.run(args)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("verb", [main, compare])
def test_a_flag_that_names_a_file_or_a_folder_knows_home(verb, monkeypatch):
    """`--workdir=~/x` makes no folder called "~"."""
    monkeypatch.setenv("HOME", "/home/ada")
    parser = verb.parser()
    paths = [a for a in parser._actions if a.metavar in ("DIR", "FILE", "PATH", "RUN", "A", "B")]
    words = [f"{a.option_strings[0]}=~/x" if a.option_strings else "~/x" for a in paths]
    args = parser.parse_args(words)
    assert len(paths) >= 3 and [getattr(args, a.dest) for a in paths] == ["/home/ada/x"] * len(paths)
    assert RunDir("~/x").path == Path("/home/ada/x")


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path):
    args = (f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.steps=1000000", "--config.log_every=50",
            "--config.save_every=1000000", "--config.eval.loss.every=0", "--config.eval.grid.every=0",
            "--config.eval.reconstruct.every=0", "--config.eval.likelihood.every=0")  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(command(*args), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("step "):
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == 0, rest
        assert f"{number.name}: step" in rest
        saved = int(re.search(r": step (\d+) is saved", rest)[1])
        assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == saved


@pytest.mark.slow
def test_a_signal_is_heard_while_the_step_is_compiled(tmp_path):
    """The process leaves at once, although XLA has seconds of work left, and the directory is as it was."""
    args = ("--config=ddpm_digits", f"--workdir={tmp_path / 'run'}", f"--cache={tmp_path / 'cache'}")
    process = subprocess.Popen(command(*args), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("compile"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130 and "first" not in rest and "Traceback" not in rest, rest
    assert "SIGINT" in rest and "while compiling: step 0" in rest
    assert not (tmp_path / "run" / "lock").exists() and not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.slow
def test_divergence_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    args = (f"--config={CONFIG}", f"--workdir={tmp_path}", "--config.steps=60", "--config.log_every=5", "--config.save_every=10",
            "--config.eval.loss.every=0", "--config.eval.grid.every=0", "--config.eval.reconstruct.every=0",
            "--config.eval.likelihood.every=0", "--config.eval.traversals.every=0")  # fmt: skip
    # ten sound steps, then a phase with a learning rate that no one survives
    done = run(
        *args,
        "--config.method.net.optimizer.lr=1e30",
        "--config.phases=({'until': 10, 'method.net.optimizer.lr': 1e-3},)",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "NaN or infinite at step " in last and "last good checkpoint is step 10" in last
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["10"]
    slower, clipped = re.findall(r"(--config\.method\.net\.optimizer\.\w+)=\S+[0-9]", last)
    assert slower.endswith(".lr") and clipped.endswith(".clip")
    phase = (
        "--config.phases=({'until': 10},)"  # the same run goes on from step 10 at a rate that is survived, and clipped
    )
    again = run(*args, phase, f"{slower}=1e-4", f"{clipped}=1.0", "--config.steps=12")
    assert again.returncode == 0, again.stderr
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["10", "12"]


def test_a_full_disk_loses_no_checkpoint(trained, tmp_path, monkeypatch):
    """Too little space: one line before anything is written; the run goes on once there is room."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    usage = shutil.disk_usage(path)
    at = max(int(p.name) for p in (path / "checkpoints").iterdir() if p.name.isdigit())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    config = configs.override(RunDir(path).config(), {"steps": at + 2, "mesh": {"data": 1}})
    with pytest.raises(
        UserError, match=rf"could not be written.*0 MB are free; the last good one is step {at}\. Free some space"
    ):
        train(config, path)
    monkeypatch.undo()
    train(config, path)
    assert (path / "checkpoints" / str(at + 2)).is_dir()


@pytest.mark.slow
def test_a_write_that_fails_halfway_loses_no_checkpoint(trained, tmp_path):
    """A quota on file size: Orbax fails in its threads, the command fails with a line of ours, what was there stays."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    before = sorted(p.name for p in (path / "checkpoints").iterdir())
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import jaxgen.runs.checkpoint as c; save = c.Checkpoints.save\n"
        "def narrow(self, *a):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); save(self, *a)\n"
        "c.Checkpoints.save = narrow\n"
        "sys.argv = ['jaxgen', *sys.argv[1:]]; runpy.run_module('jaxgen.main', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, f"--workdir={path}", "--config.steps=20"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "could not be written" in done.stderr, done.stderr
    assert sorted(p.name for p in (path / "checkpoints").iterdir() if p.name.isdigit()) == before
    done = run(f"--workdir={path}", "--config.steps=20")
    assert done.returncode == 0, done.stderr


def two_processes(config: str, workdir: Path, *args) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    started = [
        subprocess.Popen(
            command(f"--config={config}", f"--workdir={workdir}", "--distributed", *args),
            cwd=ROOT,
            env=environment(**env, JAX_PROCESS_ID=str(i)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    told = [p.communicate(timeout=300)[1] for p in started]
    assert [p.returncode for p in started] == [0, 0], "\n".join(told)


@pytest.mark.slow
@pytest.mark.parametrize("name, placements", [("vae_digits", ("host", "device")), ("ddpm_digits", ("device",))])
def test_two_processes_are_one(name, placements, tmp_path):
    """Law 3 for hosts: the same config over gloo gives the same figures, from both ways of reading data."""
    one = tmp_path / "one"
    assert run(f"--config=configs/{name}.py:tiny", f"--workdir={one}").returncode == 0
    for placement in placements:
        two = tmp_path / placement
        two_processes(f"configs/{name}.py:tiny", two, f"--config.data.placement={placement}")
        for a, b in zip(
            *(map(json.loads, (p / "metrics.jsonl").read_text().splitlines()) for p in (one, two)), strict=True
        ):
            assert a.keys() == b.keys()
            for key in a.keys() - {"train/images_per_s"}:
                assert a[key] == pytest.approx(b[key], rel=2e-4, abs=1e-5), (placement, key)
    done = run(f"--workdir={two}", "--mode=sample", "--num=3")  # one process reads what two wrote
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
    """Persistent compilation cache: the plan says so; no time is asserted."""
    env = {"JAXGEN_CACHE": str(tmp_path / "cache")}
    first = run(f"--config={CONFIG}", f"--workdir={tmp_path / 'a'}", **env)
    again = run(f"--config={CONFIG}", f"--workdir={tmp_path / 'b'}", **env)
    assert re.search(r"compile .* for the next", first.stderr) and re.search(
        r"compile .* from an earlier", again.stderr
    ), again.stderr


def test_help_is_quick_because_it_does_not_start_jax():
    """`--help` must not wait for devices: JAX is not even imported."""
    probe = (
        "import sys; sys.argv = ['x', '--help']; import jaxgen.main as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, check=False).returncode == 0
