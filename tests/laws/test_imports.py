"""Law 8: who may import whom. Read from the sources, so that a lazy import counts too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "jaxgen"
WINGS = ("diffusion", "losses", "metrics", "nets", "methods", "data", "pretrained")
STANDARD = set(__import__("sys").stdlib_module_names)

# room -> third-party packages it may know
PACKAGES = {
    "diffusion": {"jax", "numpy"},
    "losses": {"jax", "numpy"},
    "metrics": {"jax", "numpy"},
    "nets": {"jax", "numpy", "flax"},
    "methods": {"jax", "numpy", "optax"},
    "data": {"numpy", "grain", "PIL", "tensorflow_datasets", "tensorflow", "absl"},
    "pretrained": {"jax", "numpy", "flax", "safetensors", "tqdm"},
    "state": {"jax", "flax"},
    "net": {"jax", "flax", "optax"},
    "optim": {"jax", "optax"},
    "method": {"jax", "optax"},
    "checkpoint": {"jax", "orbax"},
    "posthoc": {"jax", "numpy"},
    "registry": set(),
    "config": {"ml_collections"},
    "errors": set(),
    "images": {"jax", "numpy", "PIL"},
    "augment": {"jax", "numpy"},
    "parallel": {"jax", "numpy"},
    "backend": {"jax"},
    "writers": {"numpy", "tqdm", "tensorboardX", "matplotlib"},
}
# room -> rooms of the house it may know (itself always)
ROOMS = {
    "diffusion": {"errors"},
    "losses": {"errors"},
    "metrics": {"errors"},
    "nets": {"errors"},
    "methods": {"errors", "images", "method", "net", "state", "parallel", "diffusion", "losses", "nets"},
    "data": {"errors"},
    "pretrained": {"errors", "metrics", "nets"},
    "errors": set(),
    "state": {"errors"},
    "net": {"errors", "state"},
    "optim": {"errors", "state"},
    "images": set(),
    "parallel": {"errors", "state"},
    "method": {"errors", "net", "parallel", "state"},
    "augment": {"errors", "images", "method", "state"},
    "registry": {"errors", "net"},
    "config": {"errors", "registry"},
    "checkpoint": {"errors", "state"},
    "posthoc": {"checkpoint", "errors", "net", "state"},
    "writers": {"images"},
    "rundir": {"config", "data", "errors", "writers"},
    "borrow": {"checkpoint", "data", "errors", "experiment", "method", "net", "parallel", "posthoc", "rundir", "state"},
    "experiment": {"parallel", "registry", "config", "data", "errors", "method", "state"},
    "evaluators": {"parallel", "data", "errors", "experiment", "images", "method", "metrics", "state"},
    "degrade": {"metrics"},
    "measure": {"borrow", "data", "errors", "method", "metrics", "parallel", "pretrained", "registry", "state"},
    "quality": {"data", "degrade", "errors", "evaluators", "experiment", "images", "measure", "method", "metrics",
                "parallel", "pretrained", "registry", "state"},
    "backend": {"errors"},
}  # fmt: skip


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if path.name == "__main__.py":  # a command line, like main.py
        return "main"
    return parts[0] if parts[0] in WINGS else path.stem


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "jaxgen":
                yield from (f"jaxgen.{alias.name}" for alias in node.names)


SOURCES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_wall(path):
    here = room(path)
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "jaxgen":
            target = rest[0] if rest else ""
            allowed = ROOMS.get(here)
            if target and target != "__version__" and allowed is not None and target != here:
                assert target in allowed, f"{path.name} ({here}) imports jaxgen.{target}"
        elif top not in STANDARD and here in PACKAGES:
            assert top in PACKAGES[here], f"{path.name} ({here}) imports {top}"


def test_only_checkpoint_knows_orbax_and_only_nets_and_net_know_linen():
    for path in SOURCES:
        names = set(imports(path))
        if any(n.split(".")[0] == "orbax" for n in names):
            assert path.name == "checkpoint.py"
        if "flax.linen" in names or ("flax" in names and "linen" in path.read_text()):
            assert room(path) in ("nets", "net", "pretrained", "state")


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        targets = {n.split(".")[1] for n in imports(path) if n.startswith("jaxgen.")}
        graph.setdefault(room(path), set()).update(targets - {room(path), "__version__"})
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"circle: {' -> '.join([*trail, node])}"
        if node in done:
            return
        for target in sorted(graph.get(node, ())):
            visit(target, (*trail, node))
        done.add(node)

    for node in sorted(graph):
        visit(node, ())
