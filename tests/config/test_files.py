"""Configs: overrides, names, defaults and the messages for what is wrong."""

import dataclasses
import json
import re
import sys

import pytest
from cases import CONFIGS, ROOT

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.core.given import OnDisk
from jaxgen.core.spec import Field, Spec, given, labels, pictures
from jaxgen.errors import UserError


@pytest.fixture
def ddpm():
    return configs.load(f"{ROOT}/configs/ddpm_cifar.py")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("arg", ["", ":tiny"])
def test_every_config_is_whole_and_survives_json(name, arg):
    config = configs.normalise(configs.load(f"{ROOT}/configs/{name}.py{arg}"))
    assert configs.to_json(configs.normalise(config)) == configs.to_json(config)
    assert configs.differences(configs.from_json(configs.to_json(config)), config) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_a_document(name):
    assert len(configs.available()[name]) > 20
    assert re.search(rf"--config=(configs/{name}\.py|{name})[ :]", (ROOT / f"configs/{name}.py").read_text())


def test_every_name_in_the_tables_can_be_imported():
    for table, name, cls in every_part():
        assert dataclasses.is_dataclass(cls), f"{table} {name}: {cls} has no fields that a config could set"


def test_overrides_reach_what_the_file_does_not_mention(ddpm):
    config = configs.override(ddpm, {"method.net.norm_eps": "1e-5", "method.net.optimizer.b2": "0.99", "seed": "3"})
    assert config.method.net.norm_eps == 1e-5 and config.method.net.optimizer.b2 == 0.99 and config.seed == 3


def test_a_part_is_replaced_by_name_and_keeps_what_both_have(ddpm):
    config = configs.override(ddpm, {"method.solver": "ddim", "method.solver.eta": "0.5"})
    solver = config.method.solver.to_dict()
    assert {**solver, "name": "ddim", "steps": 1000, "eta": 0.5, "clip": True} == solver
    config = configs.override(ddpm, {"data.name": "digits"})
    assert config.data.name == "digits" and config.data.batch == 128 and "dataset" not in config.data


def test_a_part_begins_with_its_own_numbers_where_another_has_others_by_the_same_name():
    lazy = {"method.disc_penalties.every": 16, "method.disc_penalties.strength": 0.05}
    recipe = configs.override(configs.load(ROOT / "configs/stylegan2_digits.py"), lazy)
    found = configs.override(recipe, {"method.disc_penalties": "gradient"}).method.disc_penalties
    assert (found.strength, found.every) == (10.0, 16)  # that it is lazy is any penalty's
    same = configs.override(recipe, {"method.disc_penalties": "r1", "method.gen_penalties": "orthogonal"}).method
    assert (same.disc_penalties.strength, same.gen_penalties.strength) == (0.05, 1e-4)
    recipe = configs.load(ROOT / "configs/ada_digits.py")
    assert configs.override(recipe, {"method.augment": "diffaugment"}).method.augment.brightness == 0.5
    with pytest.raises(UserError, match=r"config.method.augment.p is missing: fixed needs it"):
        configs.override(recipe, {"method.augment": "fixed"})


def test_short_forms(ddpm):
    config = configs.override(ddpm, {"method.net.ema": "0.99", "method.predict": "v", "mesh.fsdp": "2"})
    assert config.method.net.ema.rate == 0.99 and config.method.predict.name == "v" and config.mesh.fsdp == 2


def test_a_net_keeps_one_average_or_several_or_none(ddpm):
    """Every form of `ema` normalises to one dict or a tuple of dicts, survives JSON, and builds averages in its order."""
    power = {"name": "power", "std": 0.05}
    forms = {
        "0.99": ["0.99"],
        "none": [],
        "()": [],
        "(0.99,)": ["0.99"],
        "(0.99, 0.999)": ["0.99", "0.999"],
        str((power, "half_life", 0.9)): ["std0.05", "500000img", "0.9"],
    }
    for text, averages in forms.items():
        config = configs.override(ddpm, {"method.net.ema": text})
        again = configs.from_json(configs.to_json(config))
        assert configs.differences(again, config) == [] and configs.to_json(again) == configs.to_json(config)
        spec = {**config.method.net.to_dict(), "optimizer": "adam"}
        net = registry.build("net", spec, given(pictures((8, 8, 1)), 4, 100, (0, 100)))
        assert [rule.label for rule in net.ema] == averages, text
    several = configs.override(ddpm, {"method.net.ema": "(0.99, 'power')"})
    assert configs.override(several, {"method.net.ema": "0.5"}).method.net.ema.rate == 0.5
    assert configs.override(several, {"method.net.ema.name": "power"}).method.net.ema.std == 0.1
    with pytest.raises(UserError, match=r"config.method.net.ema is a list and has no key 'rate'"):
        configs.override(several, {"method.net.ema.rate": "0.5"})
    with pytest.raises(UserError, match=r"config.method.net.ema\[1\].rte is not a field of decay; did you mean 'rate'"):
        configs.override(ddpm, {"method.net.ema": "(0.9, {'name': 'decay', 'rte': 0.5})"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method.net.widht": "64"}, ["config.method.net.widht", "did you mean 'width'"]),
        ({"metod.net.width": "64"}, ["metod", "did you mean 'method'"]),
        ({"stepz": "3"}, ["stepz", "did you mean 'steps'"]),
        ({"method.net.width": "wide"}, ["config.method.net.width='wide' must be a whole number"]),
        ({"method.net.dropout": "True"}, ["must be a number"]),
        ({"steps": "0"}, ["config.steps=0"]),
        ({"snapshot_every": "-1"}, ["config.snapshot_every=-1"]),
        ({"method.net.ema": "(0.9, 'powr')"}, ["config.method.net.ema[1]", "did you mean 'power'"]),
        ({"steps": "many"}, ["config.steps='many' must be a whole number"]),
        ({"method.solver.name": "dimm"}, ["did you mean 'ddim'"]),
        ({"method": "difusion"}, ["did you mean 'diffusion'"]),
        ({"data.name": "digit"}, ["did you mean 'digits'"]),
        ({"data.batchsize": "3"}, ["config.data.batchsize", "batch"]),
        ({"data.placement": "disk"}, ["config.data.placement='disk'", "device"]),
        ({"eval.fdi.every": "3"}, ["config.eval.fdi", "is not an evaluator"]),
        ({"seed.x": "3"}, ["config.seed is a plain value"]),
        ({"method.net": "3"}, ["config.method.net"]),
    ],
)
def test_mistakes_are_told_in_one_line_that_names_the_cure(ddpm, changes, words):
    with pytest.raises(UserError) as caught:
        configs.override(ddpm, changes)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_missing_file_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"no such file; did you mean '.*ddpm_cifar\.py'"):
        configs.load(f"{ROOT}/configs/ddpm_cifra.py")


def test_a_config_that_comes_with_jaxgen_is_known_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(configs.available()) == CONFIGS
    assert configs.load("ddpm_digits").steps == 3000 and configs.load("ddpm_digits:tiny").steps == 4
    with pytest.raises(UserError, match="no such config; did you mean 'ddpm_digits'"):
        configs.load("ddpm_digit")
    with pytest.raises(
        UserError, match="no such file; did you mean 'ddpm_digits'"
    ):  # not silently another file than named
        configs.load("configs/ddpm_digits.py")
    (tmp_path / "ddpm_digits.py").write_text((ROOT / "configs/ddpm_cifar.py").read_text())
    assert configs.load("ddpm_digits.py").data.name == "tfds" and configs.load("ddpm_digits").data.name == "digits"


BROKEN = {
    "syntax": ("def get_config(arg):\n    return (1\n", r"line 2: SyntaxError: '\(' was never closed"),
    "import": ("import os\nimport nowhere\n", "line 2: ModuleNotFoundError: No module named 'nowhere'"),
    "nothing": ("x = 1\n", r"defines no get_config\(arg\)"),
    "inside": ("def get_config(arg):\n    x = {}\n    return x['a']\n", "line 3: KeyError: 'a'"),
    "no argument": ("def get_config():\n    return 1\n", "TypeError: get_config.. takes 0 positional arguments"),
    "no config": ("def get_config(arg):\n    return {}\n", "get_config returned a dict; return a ConfigDict"),
    "bytes": ("x = '\xff'\n", "line 1: SyntaxError"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_config_file_that_is_none_says_where_in_one_line(kind, tmp_path):
    text, words = BROKEN[kind]
    (tmp_path / "mine.py").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words) as error:
        configs.load(f"{tmp_path}/mine.py")
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--config={tmp_path}/mine.py")


def test_what_is_no_config_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"README.md is no config: that is a Python file with get_config\(arg\)"):
        configs.load(f"{ROOT}/README.md")
    with pytest.raises(UserError, match="no such"):
        configs.load(str(tmp_path))
    with pytest.raises(UserError, match="no such"):
        configs.load("")


def test_values_are_python_literals_or_text():
    assert [configs.parse_value(t) for t in ("3", "1e-4", "(1, 2)", "true", "adam")] == [3, 1e-4, (1, 2), True, "adam"]


def test_json_has_tuples_back(ddpm):
    config = configs.from_json(json.dumps(json.loads(configs.to_json(configs.normalise(ddpm)))))
    assert config.method.net.mults == (1, 2, 2, 2)


def every_part():
    """(table, name, class) of all that a config may name."""
    return [(t, n, registry.lookup(t, n, "here")) for t, members in registry.TABLES.items() for n in members]


def test_a_part_gets_the_facts_that_its_types_ask_for_and_no_others():
    """Over every table: a field is given a fact if its type asks for it, whatever its name; all others keep their defaults."""
    spec = Spec(pictures((6, 5, 3), 7), caption=Field((9,), "int32", "tokens", values=300, end=2))
    facts = {**given(spec, 4, 123_457, (7, 123_457)), "measures": None}
    seen = set()
    for table, name, cls in every_part():
        asked = registry.asked(cls)
        seen |= set(asked.values())
        assert set(asked.values()) <= set(facts), f"{name} asks for a fact that there is not"
        open_fields = {k: registry.default(f) for k, f in registry.fields(cls).items()}
        if table in ("net", "method", "evaluator", "optimizer") or dataclasses.MISSING in open_fields.values():
            continue
        try:
            built = registry.build(table, {"name": name}, facts)
        except UserError:  # needs another part
            continue
        for key, like in open_fields.items():
            if key in asked:
                assert getattr(built, key) == facts[asked[key]], (name, key)
            elif key not in registry.KEYS:
                assert getattr(built, key) == like, (name, key)
    assert seen >= {"shape", "conditions", "spec", "batch", "steps"}


def test_a_field_that_names_a_file_or_a_folder_says_so(monkeypatch):
    """Over every table: `~` is a home directory in a config as in a shell, wherever the text is a path."""
    monkeypatch.setenv("HOME", "/home/ada")
    for _, name, cls in every_part():
        for key, field in registry.fields(cls).items():
            marked = OnDisk() in getattr(field.type, "__metadata__", ())
            assert marked or not re.search(r"(^|_)(path|dir|file|folder)$", key), f"{name}.{key} is a path: FilePath"
            if marked:
                assert registry.typed("~/x", field, key) == "/home/ada/x", (name, key)
    config = configs.load(f"{ROOT}/configs/vae_digits.py")
    config = configs.override(config, {"data": "folder", "data.path": "~/pictures", "init": "~/runs/a"})
    assert (config.data.path, config.init.path) == ("/home/ada/pictures", "/home/ada/runs/a")


def test_what_a_config_says_wins_over_what_the_data_decide():
    facts = given(pictures((6, 6, 3), 7), 4, 100, (0, 100))
    spec = {"name": "unet", "shape": (8, 8, 1), "optimizer": "adam"}
    assert registry.build("net", spec, facts).module.shape == (8, 8, 1)
    spec.pop("shape")
    module = registry.build("net", spec, facts).module
    assert module.shape == (6, 6, 3) and module.conditions == labels(7)


def test_tasks_and_evaluators_are_sections_by_name(ddpm):
    config = configs.override(ddpm, {"tasks.hide": {}, "eval.quality.num": "10"})
    assert list(config.tasks) == ["hide"] and "name" not in config.tasks.hide and config.eval.quality.num == 10
    again = configs.from_json(configs.to_json(config))
    assert configs.differences(again, config) == []
    with pytest.raises(UserError, match=r"config.tasks.hid is not a task; did you mean 'hide'"):
        configs.override(ddpm, {"tasks.hid": {}})
    with pytest.raises(UserError, match=r"config.tasks.hide.shap is not a field of hide; did you mean 'shape'"):
        configs.override(ddpm, {"tasks.hide.shap": "box"})


def test_a_member_of_a_section_is_dropped_by_none(ddpm):
    config = configs.override(ddpm, {"eval.grid": "None", "tasks.hide": {}})
    assert "grid" not in config.eval and "loss" in config.eval
    assert list(configs.override(config, {"tasks.hide": None}).tasks) == []
    with pytest.raises(UserError, match=r"config.eval.grd is not there to be dropped; did you mean 'grid'"):
        configs.override(ddpm, {"eval.grd": "None"})
    with pytest.raises(UserError, match=r"config.eval.grid=5 must be a section"):
        configs.override(ddpm, {"eval.grid": "5"})


def test_a_class_of_ones_own_stands_wherever_a_name_does():
    """Over every table: `module:Class` is the class, has the same keys and defaults, and all that such a class needs."""
    for table, name, cls in every_part():
        path = registry.TABLES[table][name]
        assert registry.lookup(table, path, "here") is cls
        try:
            whole = registry.complete(table, {"name": name}, "here")
        except UserError:  # something must be said
            continue
        assert registry.complete(table, {"name": path}, "here") == {**whole, "name": path}
        assert registry.keys(table, path, "here") == registry.keys(table, name, "here")


OWN = """
from __future__ import annotations
from dataclasses import dataclass
from jaxgen.core.ranges import Share
from jaxgen.core.spec import Classes
from jaxgen.data.sources.digits import Digits
from jaxgen.core.task import Task

@dataclass(frozen=True)
class Mine(Task):
    share: Share = 0.5
    classes: Classes = 0

@dataclass(frozen=True)
class Data(Digits):
    shade: int = 3

class Plain(Task):
    def __init__(self, x): ...
"""


def test_one_of_several_members_is_set_by_its_number():
    several = configs.override(configs.load("text_shapes"), {"data.tokenizer": (dict(name="bytes"), dict(name="t5"))})
    changed = configs.override(several, {"data.tokenizer.1.path": "x", "data.tokenizer.0.length": 9}).data.tokenizer
    assert (changed[0]["length"], changed[1]["path"], changed[1]["length"]) == (9, "x", 77)
    for path, words in (
        ("data.tokenizer.2.path", r"config\.data\.tokenizer\.2 is not a key of this config; there are: 0, 1"),
        ("data.tokenizer.path", "config.data.tokenizer is a list and has no key 'path'"),
    ):
        with pytest.raises(UserError, match=words):
            configs.override(several, {path: "x"})


def test_a_module_in_the_current_folder_is_enough(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    (tmp_path / "own_parts.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import nowhere_at_all\n")
    changes = {"data": "own_parts:Data", "data.shade": "4", "tasks.a": "own_parts:Mine", "tasks.a.share": "0.25"}
    config = configs.override(ddpm, changes)
    assert (config.data.name, config.data.shade, config.data.batch) == ("own_parts:Data", 4, 128)
    assert config.tasks.a.to_dict() == {"name": "own_parts:Mine", "share": 0.25}
    assert configs.differences(configs.from_json(configs.to_json(config)), config) == []
    built = registry.build("task", config.tasks.a.to_dict(), given(pictures((4, 4, 1), 7), 4, 100, (0, 100)))
    assert (built.share, built.classes) == (0.25, 7)
    wrong = {
        "nowhere:Mine": "there is no module 'nowhere'; run where nowhere.py lies, or add its folder to PYTHONPATH",
        "own_parts:Main": "own_parts has no class 'Main'; did you mean 'Mine'?",
        "own_parts:Plain": r"it must be a dataclass \(@dataclass",
        "own_broken:Mine": "own_broken needs nowhere_at_all, which is not installed",
        "own_parts:Data": "cannot be a task: it lacks spec, undo",
        "mine": "is unknown; there are: coarse, codec, .*, size .or a class of your own: config.tasks.a=MODULE:CLASS",
    }
    for name, words in wrong.items():
        with pytest.raises(UserError, match=words) as error:
            configs.override(ddpm, {"tasks.a": name})
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"config.tasks.a.share=2.0 must"):
        configs.override(ddpm, {**changes, "tasks.a.share": "2.0"})
    with pytest.raises(UserError, match=r"or a class of your own: config.method=MODULE:CLASS"):
        configs.override(ddpm, {"method": "mine"})


def test_phases_own_the_checkpoint_at_their_end(ddpm):
    config = configs.override(ddpm, {"steps": 10, "phases": ({"until": 4, "data.batch": 32}, {"until": 7})})
    stages = configs.phases(config)
    assert [(s.start, s.stop, s.config.data.batch) for s in stages] == [(0, 4, 32), (4, 7, 128), (7, 10, 128)]
    assert [configs.owner(stages, at) for at in (0, 4, 5, 7, 8, 10, 99)] == [0, 0, 1, 1, 2, 2, 2]
    for until in (0, 10, "soon"):
        with pytest.raises(UserError, match=r"config.phases\[0\]\['until'\]"):
            configs.phases(configs.override(config, {"phases": ({"until": until},)}))


def test_the_cost_of_every_config_is_told():
    """docs/costs.md is made by experiments/benchmarks/costs.py."""
    told = re.findall(r"^\| `(\w+)`", (ROOT / "docs/costs.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(CONFIGS)


def test_the_argument_of_a_config_is_tiny_or_a_folder(tmp_path):
    assert configs.load(f"sd15:{tmp_path}").data.tokenizer.path == f"{tmp_path}/tokenizer"
    for argument, said in (
        ("sd15:nowhere", "there is no folder nowhere; name that of Stable Diffusion 1.5, or tiny"),
        ("ddpm_digits:x", "the argument 'x' is unknown"),
        (f"lora_emoji:{tmp_path}", r"holds no run \(no config.json\); name the directory of one"),
    ):
        with pytest.raises(UserError, match=said):
            configs.load(argument)
