"""A picture of any size through a function of one size: where its tiles lie, and how they are put together.

Exact, where an output depends on inputs no farther than a `halo`: tiles overlap by twice that, each gives what its halo cannot
reach, and the last moves inwards, so that borders see what they see in the whole picture. Blended, where it depends on more:
neighbours overlap and pass over into each other by weights that sum to 1, and that do not fall off at the picture's border.

Sides that the function does not take are reflected at the border until it does, and the output is cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Axis:
    """One side of a picture, cut."""

    side: int  # of the picture
    tile: int  # what the function takes
    starts: tuple[int, ...]  # of the tiles
    halo: int = 0
    blended: bool = False

    @staticmethod
    def cut(side: int, tile: int, multiple: int = 1, halo: int = 0, overlap: int = 0) -> "Axis":
        """Tiles of a side that begin at multiples; exact with a halo unless there is an overlap, and then as even as can be.

        The picture goes on reflected to a multiple, and to one tile at least.
        """
        padded = max(tile, -(-side // multiple) * multiple)
        room = padded - tile
        if overlap:
            count = -(-room // (tile - overlap)) + 1
            starts = (round(i * room / max(1, count - 1) / multiple) * multiple for i in range(count))
        else:
            step = tile - 2 * halo
            starts = (min(i * step, room) for i in range(-(-room // step) + 1))
        return Axis(side, tile, tuple(starts), halo, bool(overlap))

    def places(self, start: int) -> np.ndarray:
        """Which pixels of the picture a tile shows, [tile]: beyond the border it is reflected."""
        period = max(1, 2 * (self.side - 1))
        at = np.arange(start, start + self.tile) % period
        return np.minimum(at, period - at) if self.side > 1 else np.zeros_like(at)

    def owned(self, i: int) -> tuple[int, int]:
        """The part of the side that tile i gives where they are exact."""
        first = self.starts[i] + self.halo if i else 0
        last = self.starts[i + 1] + self.halo if i + 1 < len(self.starts) else self.side
        return min(first, self.side), min(last, self.side)

    def weights(self, scale: int) -> np.ndarray:
        """[tiles, tile * scale], float32: of every place of the output they sum to 1 over the tiles."""
        tile, length = self.tile * scale, (self.starts[-1] + self.tile) * scale
        table, total = np.ones((len(self.starts), tile)), np.zeros(length)
        for i, start in enumerate(self.starts):
            for other, ramp in ((i - 1, lambda x: x), (i + 1, lambda x: x[::-1])):
                if 0 <= other < len(self.starts):
                    over = tile - abs(self.starts[other] - start) * scale
                    table[i] = np.minimum(table[i], ramp(np.minimum(1.0, (np.arange(tile) + 0.5) / max(over, 1))))
            total[start * scale : start * scale + tile] += table[i]
        for i, start in enumerate(self.starts):
            table[i] /= total[start * scale : start * scale + tile]
        return table.astype(np.float32)


@dataclass(frozen=True)
class Cut:
    """A picture, cut."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def tile(self) -> tuple[int, int]:
        """What the function takes."""
        return self.rows.tile, self.columns.tile

    def take(self, image: np.ndarray, i: int) -> np.ndarray:
        """Tile i of [H, W, C], row by row."""
        row, column = divmod(i, len(self.columns.starts))
        top, left = self.rows.starts[row], self.columns.starts[column]
        if top + self.rows.tile <= self.rows.side and left + self.columns.tile <= self.columns.side:
            return image[top : top + self.rows.tile, left : left + self.columns.tile]
        return image[np.ix_(self.rows.places(top), self.columns.places(left))]


class Canvas:
    """The output of a cut picture, uint8 or uint16, filled by its tiles in their order; where they blend a band waits as floats."""

    def __init__(self, cut: Cut, scale: int, channels: int, dtype: np.dtype) -> None:
        self.cut, self.scale = cut, scale
        self.pixels = np.empty((cut.rows.side * scale, cut.columns.side * scale, channels), dtype)
        self.most = np.iinfo(dtype).max
        self.apart: list[
            float
        ] = []  # between neighbours where they overlap, in shares of the range from black to white
        self._at, self._band, self._last = 0, np.zeros(0), {}

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        return self.cut.rows.weights(self.scale), self.cut.columns.weights(self.scale)

    @property
    def blended(self) -> bool:
        """Whether tiles pass over into each other."""
        return self.cut.rows.blended

    def add(self, made: np.ndarray) -> None:
        """The next tile, [h * scale, w * scale, C]: levels of the output, or floats in [-1, 1] where they blend."""
        row, column = divmod(self._at, len(self.cut.columns.starts))
        self._at += 1
        if self.blended:
            self._blend(made, row, column)
            return
        (top, bottom), (left, right) = self.cut.rows.owned(row), self.cut.columns.owned(column)
        y, x, s = self.cut.rows.starts[row], self.cut.columns.starts[column], self.scale
        part = made[(top - y) * s : (bottom - y) * s, (left - x) * s : (right - x) * s]
        self.pixels[top * s : bottom * s, left * s : right * s] = part

    def _blend(self, made: np.ndarray, row: int, column: int) -> None:
        rows, columns, s = self.cut.rows, self.cut.columns, self.scale
        if not column:
            fresh = np.zeros((rows.tile * s, (columns.starts[-1] + columns.tile) * s, made.shape[-1]), np.float32)
            if row:
                done = (rows.starts[row] - rows.starts[row - 1]) * s
                fresh[: len(fresh) - done] = self._band[done:]
            self._band = fresh
        left = columns.starts[column] * s
        vertical, horizontal = self._weights[0][row], self._weights[1][column]
        self._band[:, left : left + columns.tile * s] += made * vertical[:, None, None] * horizontal[None, :, None]
        self._compare(made, row, column)
        if column == len(columns.starts) - 1:
            top = rows.starts[row] * s
            bottom = rows.starts[row + 1] * s if row + 1 < len(rows.starts) else len(self.pixels)
            bottom = min(bottom, len(self.pixels))
            ready = self._band[: bottom - top, : self.pixels.shape[1]]
            self.pixels[top:bottom] = np.clip(np.rint((ready + 1.0) * (0.5 * self.most)), 0, self.most)

    def _compare(self, made: np.ndarray, row: int, column: int) -> None:
        rows, columns, s = self.cut.rows, self.cut.columns, self.scale
        if row and (down := (rows.starts[row] - rows.starts[row - 1]) * s) < len(made):
            self.apart.append(float(np.abs(self._last[column][down:] - made[: len(made) - down]).mean()) / 2)
        if column and (over := (columns.starts[column] - columns.starts[column - 1]) * s) < made.shape[1]:
            self.apart.append(
                float(np.abs(self._last[column - 1][:, over:] - made[:, : made.shape[1] - over]).mean()) / 2
            )
        self._last[column] = made

    @property
    def seam(self) -> float:
        """How far neighbours are apart where they overlap, before they are blended: a mean, in levels of 255."""
        return 255 * float(np.mean(self.apart)) if self.apart else 0.0


def chunks(numbers: list[int], size: int) -> Iterator[list[int]]:
    """So many at a time; the last may be fewer."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
