"""What README and docs print runs as it stands, and the README's own method learns."""

import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ROOT

import jaxgen
from jaxgen import main
from jaxgen.config import files as configs
from jaxgen.core.method import Samples
from jaxgen.core.net import Decay, Net
from jaxgen.core.spec import pictures
from jaxgen.data.sources import Digits
from jaxgen.errors import UserError
from jaxgen.latents.verb import build
from jaxgen.nets.unet import UNet
from jaxgen.train import train

PAGES = [
    ROOT / "README.md",
    *(page for page in ROOT.glob("docs/*.md") if page.stem != "weights"),
]  # that has its own test
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(), re.S) for page in PAGES}
METHOD = next(block for block in BLOCKS[ROOT / "README.md"] if "class RectifiedFlow" in block)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the documents' lines are run: it holds the run that they speak of, a small one, and the README's method in a file."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "ink.py").write_text(METHOD)
    none = {"eval": {}, "mesh": {"data": 1}, "steps": 2, "method.net.mults": (1,), "method.net.attend": ()}
    train(configs.override(configs.load("ddpm_digits:tiny"), none), folder / "runs/digits")
    return folder


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.name == "README.md" else [], id=path.name)
        for path, blocks in BLOCKS.items()
        if blocks
    ],
)
def test_every_block_of_python_in_a_document_runs_as_it_stands(path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in BLOCKS[path]:
        exec(compile(block, path.name, "exec"), names)
    assert names["images"].dtype == np.uint8 or names["images"].shape == (64, 8, 8, 1)
    if "made" in names:
        assert (
            names["made"].shape == (16, 8, 8, 1)
            and float(names["metrics"]["loss"]) > 0
            and names["eps"].shape == (2, 8, 8, 1)
        )


@pytest.mark.slow
def test_a_method_and_a_task_of_ones_own_are_trained_and_sampled_without_editing_the_package(
    folder, monkeypatch, tmp_path
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    small = ["--config.method.net.mults=(1,)", "--config.method.net.attend=()", "--config.eval={}", "--config.mesh.data=1",
             "--config.method.steps=2"]  # fmt: skip
    own = ["--config.method=ink:RectifiedFlow", "--config.tasks.ink=ink:Ink"]
    main.run(["--config=ddpm_digits:tiny", "--workdir=runs/ink", *own, *small])
    main.run(["--workdir=runs/ink", "--mode=sample", "--ask", "ink=-0.5", "--num=2"])
    assert [p.name for p in (folder / "runs/ink/samples").glob("*.npz")] == ["0000004_seed0_num2_ink--0.5.npz"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p != str(folder)])
    monkeypatch.delitem(sys.modules, "ink")
    with pytest.raises(UserError, match=r"'ink:RectifiedFlow': there is no module 'ink'; run where ink.py lies"):
        jaxgen.open(folder / "runs/ink")


COMMANDS = [
    line.strip()
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text().replace("\\\n", " "), re.S | re.M)
    for line in block.splitlines()
    if not language and line.startswith("python -m jaxgen.main ") and "..." not in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_a_document_can_be_parsed_and_its_keys_are_there(line, monkeypatch, tmp_path):
    (tmp_path / "ink.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)  # of the clone, where configs/ is
    rest, changes = configs.split(shlex.split(line.split(" > ")[0], comments=True)[3:])
    rest, tool = configs.split(rest, "--tool.")
    args = main.parser().parse_args(rest)
    main._refuse_idle(args)
    if args.tool:
        build(args.tool, tool)
    config = configs.load(args.config if args.config and not args.config.startswith("my_") else "ddpm_digits")
    configs.override(config, changes)


@pytest.mark.slow
def test_sixty_lines_make_a_method_that_learns_its_new_condition():
    assert len(METHOD.splitlines()) <= 60
    names: dict = {"key": jax.random.key(0)}
    exec(METHOD, names)
    source = Digits().open("train")
    images = jnp.asarray(np.stack([source[i]["image"] for i in range(128)]))
    images = jnp.where(jnp.arange(128)[:, None, None, None] % 2 == 0, images, images // 4)  # half of them with less ink
    names["batch"] = names["Ink"]()(pictures((8, 8, 1)), {}, {"image": images}, names["key"])
    spec = names["Ink"]().spec(pictures((8, 8, 1)))
    net = UNet(shape=spec.shape, conditions=spec.conditions, width=16, groups=4, mults=(1,), blocks=1, attend=())
    method = names["RectifiedFlow"](net=Net(net, optax.adam(1e-3), (Decay(0.999),)), spec=spec)
    state, losses = method.init(names["key"], names["batch"]), []
    step = jax.jit(method.train_step, donate_argnums=0)
    for i in range(200):
        state, metrics = step(state, names["batch"], jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert isinstance(method, Samples)
    make = jax.jit(lambda w, k, cond: method.sample(w, k, 16, cond))
    little, much = (make(state.view(), names["key"], {"ink": jnp.full((16, 1), ink)}) for ink in (-0.9, -0.3))
    assert little.shape == (16, 8, 8, 1) and bool(jnp.isfinite(little).all())
    assert float(much.mean()) > float(little.mean()) + 0.15  # it makes what it is asked for
