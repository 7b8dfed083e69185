"""Captions as tokens."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxgen.core.spec import Field, Spec
from jaxgen.data.sources.source import Source, Wrapped
from jaxgen.data.tokenize import Tokenizer
from jaxgen.errors import UserError

NAME = "caption"
CAPTIONS = (NAME, "caption2", "caption3", "caption4")  # of several tokenizers, in their order
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def every_caption(source: Source, what: str) -> list[tuple[str, ...]]:
    """The captions of every example; a UserError where the source has none, or one of its examples."""
    found = source.captions
    if found is None:
        raise UserError(
            f"config.data.tokenizer reads captions, and {what} has none: shapes has, and a folder with a text file beside every "
            "picture or a captions.jsonl; set config.data.tokenizer=none"
        )
    if without := [i for i, texts in enumerate(found) if not texts]:
        raise UserError(
            f"{len(without)} of {len(found)} examples of {what} have no caption, the first is number {without[0]}; write one, or "
            "take them away"
        )
    return found


@dataclass(frozen=True)
class Templated(Wrapped):
    """Another source, whose captions are made of its labels' names; a name that is a digit is said as a word."""

    templates: tuple[str, ...]
    what: str = "the source"  # its name, for messages

    def __post_init__(self) -> None:
        if not self.inner.spec.classes:
            raise UserError(
                f"config.data.templates make captions of labels, and {self.what} has none; set config.data.templates=()"
            )
        for text in self.templates:
            try:
                text.format(label="")
            except (KeyError, IndexError, ValueError):
                raise UserError(
                    f"config.data.templates: {text!r} may hold {{label}} alone; set config.data.templates=('a {{label}}',)"
                ) from None

    @property
    def spec(self) -> Spec:
        """With a caption."""
        return Spec(self.inner.spec, **{NAME: Field((), "str", "text")})

    @cached_property
    def said(self) -> list[tuple[str, ...]]:
        """The captions of every label."""
        field = self.inner.spec[self.inner.spec.label]
        words = [field.called(i) for i in range(field.values)]
        words = [NUMBERS[int(word)] if word.isdecimal() and int(word) < 10 else word for word in words]
        return [tuple(text.format(label=word) for text in self.templates) for word in words]

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """By the label; where the source does not know labels without reading, it is read once."""
        labels, name = self.inner.labels, self.inner.spec.label
        labels = [self.inner[i][name] for i in range(len(self))] if labels is None else labels
        return [self.said[int(label)] for label in labels]

    def __getitem__(self, i: int) -> dict[str, Any]:
        example = self.inner[i]
        return {**example, NAME: self.said[int(example[self.inner.spec.label])][0]}


@dataclass(frozen=True)
class Tokenized(Wrapped):
    """Another source with its captions as tokens: a condition [L], or [K, L] where an example has up to K, absent ones -1.

    Each of several tokenizers makes a condition of its own, caption, caption2, ...
    """

    tokenizers: tuple[Tokenizer, ...]
    what: str = "the source"  # its name, for messages

    @cached_property
    def table(self) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """({name: (tokens of all captions that differ [M, L], which are cut [M])}, which each example has [N, K]; -1: fewer)."""
        captions = every_caption(self.inner, self.what)
        place = {text: i for i, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
        rows = np.full((len(captions), max(map(len, captions))), -1, np.int32)
        for row, texts in zip(rows, captions, strict=True):
            row[: len(texts)] = [place[text] for text in texts]
        told = (one.encode_and_tell(list(place)) for one in self.tokenizers)
        return dict(zip(CAPTIONS, told, strict=False)), rows

    def distinct(self, name: str) -> np.ndarray:
        """The tokens of all captions that differ, [M, L]."""
        return self.table[0][name][0]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """With the captions that are cut."""
        told = [
            f"captions: {cut.sum():,} of {len(cut):,} that differ are cut after {one.length} tokens (config.data.tokenizer.length)"
            for one, (_, cut) in zip(self.tokenizers, self.table[0].values(), strict=True)
            if cut.any()
        ]
        return (*self.inner.notes, *told)

    @cached_property
    def spec(self) -> Spec:
        """The text as tokens."""
        spec = self.inner.spec.where(lambda _, field: field.kind != "text")
        several = self.table[1].shape[1]
        return Spec(spec, **{k: one.field(several) for k, one in zip(CAPTIONS, self.tokenizers, strict=False)})

    def __getitem__(self, i: int) -> dict[str, Any]:
        tables, rows = self.table
        found = {k: np.where(rows[i, :, None] < 0, -1, tokens[rows[i]]) for k, (tokens, _) in tables.items()}
        return {**self.inner[i], **{k: v if len(v) > 1 else v[0] for k, v in found.items()}}
