"""`--mode=show`: every key with its value and its meaning."""

import dataclasses
import re
from dataclasses import dataclass

import pytest
from cases import CONFIGS, ROOT

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.config.explain import COMMON, explained, meanings
from jaxgen.config.files import Feed, RunOptions


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_a_config_is_shown_with_its_value(name):
    config = configs.normalise(configs.load(name))
    shown = [line.split("  #")[0].strip() for line in explained(config).splitlines()[1:]]
    assert len(shown) == len(set(shown))
    for path, value in configs._flat(configs.plain(config)).items():
        if not isinstance(value, tuple | dict) and not path.startswith(("mesh", "sharding")):
            assert f"{path.removesuffix('.name')} = {value!r}" in shown, path


@pytest.mark.parametrize("options", [RunOptions, Feed])
def test_every_option_of_a_run_says_what_it_means(options):
    assert {f.name for f in dataclasses.fields(options)} <= set(meanings(options))


def test_every_part_says_what_it_is_and_its_words_are_there():
    """Over every table: a class has a docstring of its own; a common word is a field of some member."""
    for table, members in registry.TABLES.items():
        classes = [registry.lookup(table, name, "here") for name in members]
        assert all(cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") for cls in classes), table
        words = {key for cls in classes for key in registry.fields(cls)}
        assert set(COMMON.get(table, {})) <= words, table


def test_the_comment_of_a_field_stands_in_its_line():
    """In the line below, where the formatter puts what is too long, nobody finds it."""
    for path in (ROOT / "jaxgen").rglob("*.py"):
        lost = re.search(r"^    (\w+): [^\n]+ = \(\n +\S+  # ", path.read_text(), re.M)
        assert not lost, f"{path.name}: the comment of {lost[1]}"


@dataclass
class Parent:
    """Two ways.

    first, second: said in the docstring,
        on two lines.
    """

    first: int = 1
    second: str = "#"  # and behind it # twice
    third: int = 3  # theirs


@dataclass
class Child(Parent):
    third: int = 4


def test_meanings_come_from_comments_docstrings_and_parents():
    assert meanings(Child) == {
        "first": "said in the docstring, on two lines.",
        "second": "and behind it # twice",
        "third": "theirs",
    }
