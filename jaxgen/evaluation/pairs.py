"""Two sets picture by picture: which belong together, and PSNR, SSIM, LPIPS and their kin of each pair at its own size."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config.registry import nearest
from jaxgen.core.lender import Frozen
from jaxgen.core.state import Array
from jaxgen.data.pipeline import share
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation.features import borrow
from jaxgen.evaluation.pictures import Pictures, Shape, read_ahead
from jaxgen.images import to_float
from jaxgen.metrics import pixel, ssim
from jaxgen.metrics.pixel import PERFECT
from jaxgen.pretrained.features import Lpips

LPIPS = ("lpips:alex", "lpips:vgg", "lpips:squeeze")
MEASURES = {"psnr": pixel.psnr, "mse": pixel.mse, "l1": pixel.l1, "ssim": ssim.ssim, "ms_ssim": ssim.ms_ssim}
PIXELS = 1 << 22  # that are compared at once


def match(made: Pictures, real: Pictures) -> tuple[np.ndarray, str]:
    """The pairs (i, j) [N, 2] in the order of A, and how they were found.

    Files by their names without suffix, of which one set may have more, the same for all (baby_x4 and baby); arrays by
    their place. A picture without a partner is a UserError.
    """
    if not (made.names and real.names):
        if len(made) != len(real):
            raise UserError(
                f"{made.what} holds {len(made)} pictures and {real.what} {len(real)}, and pairs of sets without names are "
                "matched by their place; give sets of one number"
            )
        return np.stack([np.arange(len(made))] * 2, 1), "by their place"
    mine, theirs, how = _stems(made), _stems(real), "by name"
    if mine.keys() == theirs.keys():
        return np.array([(i, theirs[stem]) for stem, i in mine.items()]), how
    same, around, back = len(mine.keys() & theirs.keys()), _affix(mine, theirs), _affix(theirs, mine)
    if around[0] > max(same, back[0]):
        mine, how = _without(mine, around), f"by name, those of {made.what} without '{'...'.join(around[1:])}'"
    elif back[0] > same:
        theirs, how = _without(theirs, back), f"by name, those of {real.what} without '{'...'.join(back[1:])}'"
    for own, other, here, there in ((mine, theirs, made, real), (theirs, mine, real, made)):
        if alone := [i for stem, i in own.items() if stem not in other]:
            raise UserError(
                f"{there.what} has no partner of {here.name(alone[0])} in {here.what}"
                + (f" (nor of {len(alone) - 1} more)" if len(alone) > 1 else "")
                + f": pairs are matched {how} (file endings do not count); rename, add or remove it"
            )
    return np.array([(i, theirs[stem]) for stem, i in mine.items()]), how


def _stems(pictures: Pictures) -> dict[str, int]:
    """Names without suffix -> their places."""
    found: dict[str, int] = {}
    for i, name in enumerate(pictures.names):
        stem = os.path.splitext(name)[0]
        if stem in found:
            first = pictures.name(found[stem])
            raise UserError(
                f"{pictures.what} holds both {first} and {pictures.name(i)}, which are one name in a pair; remove one"
            )
        found[stem] = i
    return found


def _affix(longer: Iterable[str], shorter: Iterable[str]) -> tuple[int, str, str]:
    """(how many names, start, end): what most longer names have around a shorter one; (0, "", "") if nothing or two such.

    A number is never cut: 10 and 20 are not 1 and 2.
    """
    longer, shorter = set(longer), set(shorter)
    found: Counter[tuple[str, str]] = Counter()
    for probe in sorted(shorter, key=len)[-3:]:  # of which one may be without a partner
        for name in longer - {probe}:
            at = name.find(probe)
            while at >= 0:
                start, end = name[:at], name[at + len(probe) :]
                if (start, end) not in found and not _cuts(start, probe, end):
                    found[start, end] = sum(start + s + end in longer and not _cuts(start, s, end) for s in shorter)
                at = name.find(probe, at + 1)
    (first, most), (_, next_most) = [*found.most_common(2), (("", ""), 0), (("", ""), 0)][:2]
    return (most, *first) if most > next_most else (0, "", "")


def _cuts(start: str, stem: str, end: str) -> bool:
    """Whether a number goes over the border of start and stem, or of stem and end."""
    return (start[-1:].isdecimal() and stem[:1].isdecimal()) or (stem[-1:].isdecimal() and end[:1].isdecimal())


def _without(stems: dict[str, int], affix: tuple[int, str, str]) -> dict[str, int]:
    """The stems that have this start and end, without them; others as they are."""
    _, start, end = affix
    bare = lambda s: s[len(start) : len(s) - len(end)] if s.startswith(start) and s.endswith(end) else s  # noqa: E731
    return {bare(stem): i for stem, i in stems.items()}


@dataclass(frozen=True)
class Comparison:
    """What is measured of a pair, and how it is looked at: its luma alone, without a border."""

    measures: tuple[str, ...]
    luma: bool = False
    border: int = 0
    weights: str = ""  # a file of the LPIPS trunk's, where they are not to be downloaded

    def nets(self) -> dict[str, Frozen]:
        """The nets that the measures look through; what cannot be measured is a UserError."""
        found = {}
        for name in self.measures:
            kind, _, net = name.partition(":")
            if kind == "lpips" and self.luma:
                raise UserError(
                    f"--luma does not go with {name}, which looks at colours; measure it in a call without --luma"
                )
            if kind == "lpips":
                found[name] = borrow(Lpips(net or "alex", self.weights))
            elif name not in MEASURES:
                raise UserError(f"--paired={name} is unknown{nearest(name, [*MEASURES, *LPIPS])}")
        return found

    def __call__(self, nets: dict[str, Frozen], a: Array, b: Array) -> dict[str, Array]:
        """uint8 pictures [B, H, W, C] -> figures [B] by name, and which pairs are "identical"."""
        bare = [pixel.shave(x, self.border) for x in (a, b)]
        levels = [pixel.luma(x) if self.luma else pixel.floats(x) for x in bare]
        found = {"identical": pixel.mse(*levels) == 0}
        for name in self.measures:
            if name in nets:
                found[name] = nets[name](*(jnp.broadcast_to(to_float(x), (*x.shape[:3], 3)) for x in bare))
            else:
                found[name] = MEASURES[name](*levels)
        return found


def compare(
    made: Pictures, real: Pictures, how: Comparison, num: int = 0, seed: int = 0, batch: int = 64,
    progress: Callable[[int], Any] = lambda _: None,
) -> tuple[dict[str, float], dict[str, Any]]:  # fmt: skip
    """(mean figures over pairs, what a record says of them); with `num` over a seeded share of the pairs.

    A pair is compared at its own size, one program for each size. A pair of which one cannot be read is left out. Grey
    beside colour, and grey under `luma`, is repeated to three channels. progress(n) is called for every n pairs.
    """
    pairs, matched = match(made, real)
    pairs = pairs[share(made, num, seed)]
    groups, repeated = _by_shape(made, real, pairs, how)
    values: dict[str, list[np.ndarray]] = {}
    for found in _measured(made, real, how, groups, batch):
        for name, figures in found.items():
            values.setdefault(name, []).append(figures)
        progress(len(found["identical"]))
    if not values:
        raise UserError(f"there is no pair of {made.what} and {real.what} that can be read")
    whole = {name: np.concatenate(parts) for name, parts in values.items()}
    identical = whole.pop("identical")
    whole = {name: np.minimum(whole[name], PERFECT) if name == "psnr" else whole[name] for name in how.measures}
    figures = {name: float(x.mean()) for name, x in whole.items()}
    about = {
        "N": len(identical), "matched": matched, "share": {"of": len(made), "seed": seed},
        "luma": how.luma, "border": how.border, "identical": int(identical.sum()), "repeated": repeated,
        "sizes": len({shape[:2] for shape in groups}), "left_out": len(pairs) - len(identical),
    }  # fmt: skip
    return figures, about


def _measured(
    made: Pictures, real: Pictures, how: Comparison, groups: dict[Shape, np.ndarray], batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Figures [n] by name of some pairs at a time, all of one shape."""
    nets, program = how.nets(), jax.jit(how)
    for shape, rows in groups.items():
        size = min(batch, len(rows), max(1, PIXELS // (shape[0] * shape[1])))
        for part in read_ahead(lambda ij: (made.get(ij[0]), real.get(ij[1])), rows, size):
            read = [(i, a, b) for (i, _), (a, b) in part if a is not None and b is not None]
            if not read:
                continue
            rest = [read[-1]] * (size - len(read))  # so that there is one program for a shape
            a, b = (np.stack([np.broadcast_to(row[side], shape) for row in read + rest]) for side in (1, 2))
            with jax.default_matmul_precision("highest"):
                found = jax.device_get(program(nets, a, b))
            found = {name: x[: len(read)].astype(np.float64) for name, x in found.items()}
            for name, x in found.items():
                if name != "psnr" and not np.isfinite(x).all():
                    first, at = made.name(read[int(np.argmin(np.isfinite(x)))][0]), f"{shape[1]}x{shape[0]}"
                    raise NotFinite(f"{name} of {first} ({at}) is not a number: the picture is too small for it")
            yield found


def _by_shape(
    made: Pictures, real: Pictures, pairs: np.ndarray, how: Comparison
) -> tuple[dict[Shape, np.ndarray], int]:
    """Pairs [n, 2] by the shape at which they are compared, and how many are repeated to it. Two sizes in a pair: a UserError."""
    groups: dict[Shape, list] = {}
    repeated = 0
    for part in read_ahead(lambda ij: (made.look(ij[0]), real.look(ij[1])), pairs, 1024):
        for (i, j), shapes in part:
            if None in shapes:
                continue
            a, b = shapes
            name = made.name(i)
            if a[:2] != b[:2]:
                raise UserError(
                    f"{name} is {a[1]}x{a[0]} in {made.what} and {b[1]}x{b[0]} in {real.what}; a pair needs one size: crop or "
                    "resize them alike, or bring all to squares with --size"
                )
            if {a[2], b[2]} - {1, 3}:
                raise UserError(
                    f"{name} has {max(a[2], b[2])} channels; pairs are grey or colour: save them without alpha"
                )
            channels = 3 if how.luma else max(a[2], b[2])
            repeated += {a[2], b[2]} != {channels}
            groups.setdefault((*a[:2], channels), []).append((i, j))
    return {shape: np.array(rows) for shape, rows in groups.items()}, repeated
