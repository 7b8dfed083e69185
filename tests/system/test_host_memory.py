"""The host's memory does not grow with the length of a run, with the pictures that are evaluated or with those that are made."""

import subprocess
import sys

import pytest
from cases import ROOT

SIDE = 48
# bytes; two compilations differ by up to 90 MB. What is kept of every batch or picture would be 265 MB at least
MARGIN = 150e6
DATA = (
    f"data=shapes data.size={SIDE} data.num=64 data.eval_num=40960 data.labels=False data.batch=32 data.placement=host"
)
CODE = """
import resource, sys
from pathlib import Path
from jaxgen.runs import setup
setup.configure()
from jaxgen import evaluate, sample, train
from jaxgen.config import files
work, what, num, *changes = sys.argv[1:]
changes = dict(change.split("=", 1) for change in changes)
run, num = Path(work), int(num)
small = {"method.net.encoder.width": 4, "method.net.decoder.width": 4, "method.likelihood.name": "gaussian"}  # steps of 7 ms
config = files.override(files.load("vae_digits:tiny"), {**changes, **small, "eval": {}, "mesh.data": 1, "steps": 2})
if what == "train":
    train.train(files.override(config, {"steps": num, "log_every": 10, "save_every": 10**6}), run)
else:
    train.train(config, run)
if what == "sample":
    sample.sample(run, num, out=run / "made")
if what == "eval":
    evaluate.evaluate(run, changes={"eval.loss.num": num})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize(
    ("what", "few", "many"), [("train", 600, 1_800), ("eval", 2_048, 40_960), ("sample", 2_048, 40_960)]
)
def test_the_hosts_memory_is_flat(what, few, many, tmp_path):
    def peak(num):
        command = [sys.executable, "-c", CODE, tmp_path / str(num), what, str(num), *DATA.split(), "steps_per_call=1"]
        out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert out.returncode == 0, out.stderr
        return int(out.stdout.split()[-1])

    small, large = peak(few), peak(many)
    assert large < small + MARGIN, f"{small / 1e6:.0f} MB for {few:,}, {large / 1e6:.0f} MB for {many:,}"
