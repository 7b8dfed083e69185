"""Parts as inputs: numbers may change within a program, what else differs is another one."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import numpy as np

from jaxgen.core.inputs import Input


@dataclass  # of somebody's own: it has no hash
class Part:
    inputs: ClassVar[tuple[str, ...]] = ("scale", "rows", "told")
    scale: float = 2.0
    rows: tuple[float, ...] = (0.0, 1.0)
    told: dict = field(default_factory=lambda: {"a": [1, 2]})
    words: list = field(default_factory=lambda: ["plus"])

    def __call__(self, x):
        return self.scale * x + self.rows[1] + self.told["a"][0] if "plus" in self.words else x


@dataclass
class Plain:
    scale: float = 2.0

    def __call__(self, x):
        return self.scale * x


def test_numbers_are_traced_and_all_else_is_compiled_in():
    traced = []

    @jax.jit
    def call(told, x):
        traced.append(told)
        return told.part(x)

    x = np.arange(3.0, dtype=np.float32)
    for i, (part, programs) in enumerate([
        (Part(), 1), (Part(3.0), 1), (Part(rows=(5.0, 7.0)), 1), (Part(told={"a": [4, 2]}), 1), (Part(words=["minus"]), 2),
        (Part(4.0, words=["minus"]), 2), (Part(), 2), (Plain(), 3), (Plain(2.0), 3), (Plain(5.0), 4),
    ]):  # fmt: skip
        np.testing.assert_array_equal(call(Input(part), x), part(x))
        assert len(traced) == programs, i
    mine = Part()
    jax.tree.map(lambda v: v * 2, Input(mine))
    assert mine == Part() and replace(mine, scale=1.0) != mine
