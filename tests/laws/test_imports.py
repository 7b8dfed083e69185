"""Law 8: who may import whom. Read from the sources, so that a lazy import counts too, and so does a class named in a table."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "jaxgen"
SOURCES = sorted(ROOT.rglob("*.py"))
STANDARD = set(sys.stdlib_module_names)

# room -> third-party packages that it may know; a folder is a room, and so is a file at the top
PACKAGES = {
    "errors": set(),
    "tables": set(),
    "images": {"jax", "numpy", "PIL"},
    "core": {"jax", "flax", "optax", "numpy"},
    "config": {"ml_collections"},
    "diffusion": {"jax", "numpy"},
    "losses": {"jax", "numpy"},
    "metrics": {"jax", "numpy"},
    "degradations": {"jax", "numpy"},
    "nets": {"jax", "numpy", "flax"},
    "methods": {"jax", "numpy", "optax", "flax"},
    "tasks": {"jax", "numpy"},
    "data": {"numpy", "grain", "PIL", "tqdm", "tensorflow_datasets", "tensorflow", "absl", "tokenizers", "ftfy"},
    "pretrained": {"jax", "numpy", "flax", "safetensors", "tqdm"},
    "runs": {"jax", "numpy", "ml_collections", "orbax", "tqdm", "tensorboardX", "matplotlib"},
    "evaluation": {"jax", "numpy", "tqdm"},
    "latents": {"jax", "numpy", "optax"},
    "train": {"jax", "numpy", "ml_collections", "tqdm"},
    "evaluate": set(),
    "cache": {"jax", "numpy", "ml_collections", "tqdm"},
    "sample": {"numpy", "tqdm"},
    "caption": {"numpy"},
    "apply": {"jax", "numpy", "PIL", "scipy", "tqdm", "av"},
    "apply.__main__": set(),
    "compare": {"jax", "numpy", "tqdm", "pytorch_fid", "cleanfid", "torch_fidelity"},
    "convert": {"jax", "numpy", "flax", "ml_collections"},
    "pretrained.__main__": set(),
    "main": set(),
    "doctor": set(),
    "__main__": set(),
    "__init__": set(),
}
# room -> rooms of the house that it may know (itself always); a dotted name is one file of a room
SPEC = {"core.spec", "core.given", "core.ranges"}
ROOMS = {
    "errors": set(),
    "tables": {
        "core",
        "data",
        "degradations",
        "diffusion",
        "evaluation",
        "latents",
        "losses",
        "methods",
        "nets",
        "pretrained",
        "runs",
        "tasks",
    },
    "images": {"errors"},
    "core": {"errors", "images"},
    "config": {"errors", "core.given", "core.ranges", "core.net"},
    "diffusion": {"errors", "metrics", "core.conditions", "core.inputs", "core.linear", *SPEC},
    "losses": {"errors", "images", *SPEC},
    "metrics": {"errors"},
    "degradations": {"errors", "images", "metrics", "core.ranges"},
    "nets": {"errors", "core.conditions", *SPEC},
    "methods": {"errors", "images", "core", "degradations", "diffusion", "losses", "metrics", "nets"},
    "tasks": {"errors", "images", "core", "degradations", "metrics"},
    "data": {"errors", *SPEC},
    "pretrained": {"errors", "images", "core", "metrics", "nets"},
    "runs": {"errors", "images", "core", "config", "data"},
    "evaluation": {
        "errors",
        "images",
        "core",
        "config",
        "data",
        "degradations",
        "metrics",
        "pretrained",
        "runs",
        "tasks",
    },
    "latents": {"errors", "images", "core", "config", "data", "evaluation", "metrics", "pretrained", "runs"},
    "evaluate": {"errors", "images", "core", "config", "data", "evaluation", "runs"},
    "sample": {"errors", "images", "core", "evaluation", "runs"},
    "caption": {"errors", "images", "core", "data", "evaluation", "runs"},
    "apply": {"errors", "images", "core", "config", "data", "metrics", "runs"},
    "apply.__main__": {"errors", "config.files", "core.given", "apply", "runs"},
    "compare": {"errors", "images", "core", "data", "evaluation", "metrics", "pretrained", "runs"},
    "convert": {"errors", "core", "config", "data", "nets", "pretrained", "runs", "tasks"},
    "pretrained.__main__": {"errors", "core.given", "convert", "runs"},
    "train": {"errors", "core", "config", "data", "evaluate", "evaluation", "runs"},
    "cache": {"errors", "images", "core", "config", "data", "runs", "tasks"},
    "main": {"errors", "core", "config", "runs", "train", "evaluate", "latents", "sample", "caption", "cache"},
    "__main__": {"main"},
    "doctor": set(),
    "__init__": {"tables", "config", "runs"},
}


def name_of(path: Path) -> str:
    """jaxgen/core/net.py -> core.net; a room's own __init__ -> core; the package's -> __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts == ("__init__",) or parts[-1] != "__init__" else parts[:-1])


MODULES = {name_of(path) for path in SOURCES}


def ours(dotted: str) -> str:
    """The module of the house that `jaxgen.x.y.Z` names; "" for another package."""
    top, *rest = dotted.split(".")
    if top != "jaxgen":
        return ""
    while rest and ".".join(rest) not in MODULES:
        rest = rest[:-1]
    return ".".join(rest) or "__init__"


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, lazily too, or names as "module:Class" in a string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {m[1] for m in [re.fullmatch(r"(jaxgen(\.\w+)+):\w+", node.value)] if m}
    return found


def arrows(path: Path) -> set[str]:
    """The other modules of the house that a file knows."""
    return {ours(name) for name in imports(path)} - {"", name_of(path)}


def room(module: str) -> str:
    """A package's `__main__` is a verb, and a room of its own."""
    return module if module.endswith(".__main__") else module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_wall(path):
    here = room(name_of(path))
    assert here in ROOMS and here in PACKAGES, f"{path.name} is in an unknown room {here}: say what it may know"
    for target in arrows(path):
        known = {here, *ROOMS[here]}
        assert target in known or room(target) in known, f"{path.name} ({here}) imports jaxgen.{target}"
    outside = {name.split(".")[0] for name in imports(path)} - STANDARD - {"jaxgen"}
    assert outside <= PACKAGES[here], f"{path.name} ({here}) imports {outside - PACKAGES[here]}"


def test_a_package_has_one_door():
    """Orbax is known to the checkpoints alone; linen modules are made in nets, and run in core.net."""
    for path in SOURCES:
        packages = {name.split(".")[0] for name in imports(path)}
        assert "orbax" not in packages or path.name == "checkpoint.py", path
        linen = any(name.startswith(("flax.linen", "flax.nn")) for name in imports(path))
        assert not linen or room(name_of(path)) in ("nets", "pretrained") or name_of(path) == "core.net", path


@pytest.mark.parametrize("whole", [name_of, lambda path: room(name_of(path))], ids=["files", "rooms"])
def test_no_circles(whole):
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        here = whole(path)
        targets = arrows(path) if whole is name_of else {room(target) for target in arrows(path)}
        graph.setdefault(here, set()).update(targets - {here})
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"circle: {' -> '.join([*trail, node])}"
        if node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, (*trail, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())


def test_the_law_sees_what_a_table_names(tmp_path):
    """A string that names a class is an arrow, a lazy import is one, other text is none."""
    file = tmp_path / "x.py"
    file.write_text(
        'A = {"net": "jaxgen.nets.unet:UNet", "b": "see jaxgen.main: help"}\ndef f():\n    import jaxgen.train\n'
    )
    assert imports(file) == {"jaxgen.nets.unet", "jaxgen.train"}
