"""Whole pictures of a benchmark, each of its own size, restored or enlarged and judged as papers do it.

A measure is called `psnr:y@4`: what is compared, of what, without how many pixels at the border. `y` is luma from 16 to 235,
unrounded (the `rgb2ycbcr` of MATLAB), `rgb` all channels as they are. Pictures are rounded to bytes first, as files are; the mean
is that of dB over pictures. Beside each figure stands that of the baseline: MATLAB's bicubic enlargement, or the spoilt picture.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import conditions, keys
from jaxgen.core.given import FilePath
from jaxgen.core.method import Samples
from jaxgen.core.ranges import Natural, Seed
from jaxgen.core.spec import Spec
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch, Enlarges
from jaxgen.data import decode
from jaxgen.data.files import find
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.evaluation.per_image import Report
from jaxgen.evaluation.pictures import counter
from jaxgen.images import to_uint8
from jaxgen.metrics.pixel import PERFECT, floats, luma, psnr, shave
from jaxgen.metrics.resize import resize
from jaxgen.metrics.ssim import ssim
from jaxgen.runs.experiment import Experiment

LARGE, SMALL = "HR", "LR"  # folders of a benchmark of super-resolution
MEASURES = {"psnr": lambda a, b: jnp.minimum(psnr(a, b), PERFECT), "ssim": ssim}


class Measure(NamedTuple):
    """One figure."""

    name: str
    kind: str  # psnr or ssim
    space: str  # y or rgb
    border: int

    @staticmethod
    def of(name: str) -> "Measure":
        """By its name; a UserError for any other."""
        found = re.fullmatch(r"(psnr|ssim):(y|rgb)@(\d+)", name)
        if not found:
            raise UserError(
                f"measure {name!r} is unknown; it is psnr or ssim, of y or rgb, and a border in pixels: 'psnr:y@4', 'ssim:rgb@0'"
            )
        return Measure(name, found[1], found[2], int(found[3]))

    def __call__(self, made: np.ndarray, truth: np.ndarray) -> float:
        """Of pictures on the scale of bytes, [H, W, 3]; [H, W, 1] is luma or grey, and is compared as it is."""
        a, b = (floats(x[None]) for x in (made, truth))
        if self.space == "y" and truth.shape[-1] == 3:
            a, b = luma(a), luma(b)
        return float(MEASURES[self.kind](shave(a, self.border), shave(b, self.border))[0])


class Example(NamedTuple):
    """A picture of a benchmark."""

    name: str
    whole: np.ndarray  # uint8 [H, W, C]
    small: np.ndarray | None  # the same made smaller by somebody else


def examples(path: str, factor: int, channels: int) -> list[Example]:
    """The pictures of a folder, or of its folders HR and LR; sides are cut to multiples of the factor."""
    root = Path(path)
    paired = (root / LARGE).is_dir() and (root / SMALL).is_dir()
    folder = root / LARGE if paired else root
    found = []
    for name in find(str(folder)).names:
        whole = _read(folder / name, channels)
        height, width = (side // factor * factor for side in whole.shape[:2])
        small = _read(root / SMALL / name, channels) if paired and factor > 1 else None
        if small is not None and small.shape[:2] != (height // factor, width // factor):
            raise UserError(
                f"{root / SMALL / name} is {small.shape[0]}x{small.shape[1]}, and a {factor}th of {folder / name} is "
                f"{height // factor}x{width // factor}; name the pictures of this scale: --config.eval.benchmark.path=FOLDER"
            )
        found.append(Example(name, whole[:height, :width], small))
    return found


def _read(file: Path, channels: int) -> np.ndarray:
    try:
        return decode.photo(str(file), channels)
    except (decode.Unreadable, FileNotFoundError) as error:
        raise UserError(f"{file} cannot be read: {error}; take the picture out of the benchmark") from error


def bicubic(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """MATLAB's enlargement of uint8 [h, w, C], bytes too."""
    return np.asarray(resize(small[None], size, "matlab_bicubic_uint8"))[0].astype(np.uint8)


@dataclass(frozen=True)
class Benchmark:
    """Figures of whole pictures, by the run's own tasks; where the folder has HR and LR, of the small pictures there.

    A run of one channel sees their luma where a measure is of `y`. measures: (): psnr:y and ssim:y without a border as wide as the
    scale of a run that enlarges, psnr:rgb@0 of any other. Pictures that the run was trained on are refused.
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = False
    path: FilePath = ""
    every: Natural = 0
    measures: tuple[str, ...] = ()
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """A UserError for a measure that is none, a folder that is not there, and a run that makes no picture of another."""
        if not self.path:
            raise UserError(
                "config.eval.benchmark needs a folder of pictures, config.eval.benchmark.path; set config.eval.benchmark=None"
            )
        if not exp.from_data:
            raise UserError("config.eval.benchmark needs a run that is told pictures; set config.eval.benchmark=None")
        if own := [name for name in exp.from_data if name in exp.data]:
            raise UserError(
                f"config.eval.benchmark needs a run whose tasks make what it is told, and {own[0]!r} comes with the data; set "
                "config.eval.benchmark=None"
            )
        self.named(exp)
        find(str(self.path), "eval.benchmark.path")

    def named(self, exp: Experiment) -> list[Measure]:
        """The measures."""
        factor = _factor(exp)
        usual = (f"psnr:y@{factor}", f"ssim:y@{factor}") if factor > 1 else ("psnr:rgb@0",)
        return [Measure.of(name) for name in self.measures or usual]

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Means over the pictures, and those of the baseline."""
        measures, factor = self.named(exp), _factor(exp)
        by_luma = exp.data.shape[-1] == 1 and any(one.space == "y" for one in measures)
        pictures = examples(self.path, factor, 3 if by_luma else exp.data.shape[-1])
        self._refuse_seen(exp, pictures)
        program, total = _Whole(exp, self), {}
        with counter("benchmark", len(pictures)) as shown:
            for i, one in enumerate(pictures):
                whole, small = one.whole, one.small
                if small is None and factor > 1:
                    small = np.asarray(resize(whole[None], _sides(whole, factor), _how(exp)))[0].round().clip(0, 255)
                rng = keys.named(keys.root(self.seed), "benchmark", i)
                told = [None if x is None else np.asarray(luma(x[None]))[0] if by_luma else x for x in (whole, small)]
                made, seen = program(ema, told[0], told[1], rng)
                if factor > 1:
                    base = bicubic(small.astype(np.uint8), whole.shape[:2])
                    seen = np.asarray(luma(base[None]))[0] if by_luma else base
                for measure in measures:
                    for prefix, x in (("", made), ("baseline_", seen)):
                        total.setdefault(prefix + measure.name, []).append(measure(x, told[0]))
                shown.update(1)
        figures = {name: float(np.mean(values)) for name, values in total.items()}
        return Report(figures, about={"N": len(pictures), "benchmark": str(self.path), "seeds": [self.seed]})

    def _refuse_seen(self, exp: Experiment, pictures: Sequence[Example]) -> None:
        """A UserError for a picture that is among those of the training."""
        train = exp.open_source("train")
        if not hasattr(train, "holds"):
            return
        for one, name in zip(pictures, train.holds([one.whole for one in pictures]), strict=True):
            if name:
                raise UserError(
                    f"config.eval.benchmark: {one.name} of {self.path} is {name} of {train.root}, on which the run was trained; "
                    "test on other pictures"
                )


def _smaller(exp: Experiment) -> str:
    """The condition that is to be enlarged; "": none."""
    told = exp.spec.conditions.of("image")
    return next((name for name, field in told.items() if field.shape[0] < exp.data.shape[0]), "")


def _factor(exp: Experiment) -> int:
    """How many times a run enlarges."""
    return exp.data.shape[0] // exp.spec[name].shape[0] if (name := _smaller(exp)) else 1


def _how(exp: Experiment) -> str:
    return next((s.task.how for s in exp.stages if isinstance(s.task, Enlarges)), "matlab_bicubic_uint8")


def _sides(x: np.ndarray, factor: int) -> tuple[int, int]:
    return x.shape[0] // factor, x.shape[1] // factor


@dataclass(frozen=True)
class _Whole:
    """What a run makes of a whole picture: tasks, method and all at its own size, a program for each size."""

    exp: Experiment
    owner: Benchmark

    def __call__(
        self, w: Weights, whole: np.ndarray, small: np.ndarray | None, rng: Array
    ) -> tuple[np.ndarray, np.ndarray]:
        """(what is made of it, what the run was shown), on the scale of bytes; bytes, or luma in whole levels."""
        exp, shape = self.exp, whole.shape

        def run(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
            spec = Spec(exp.data, **{exp.data.target: replace(exp.data[exp.data.target], shape=shape, dtype="float32")})
            batch, given = {spec.target: batch["whole"]}, batch.get("small")
            for i, stage in enumerate(exp.stages):
                if stage.task.always:
                    batch, before = stage.task(spec, w.frozen, batch, keys.named(rng, "task", i)), spec
                    spec = stage.task.spec(before)
            told = {**batch, **({} if given is None else {_smaller(exp): given})}
            cond = conditions.read(spec, told, 1)
            made = replace(exp.method, spec=spec).sample(w, keys.named(rng, "use"), 1, cond)
            shown = next(
                (told[name] for name, field in spec.conditions.of("image").items() if field.shape == shape), made
            )
            return exp.show(w.frozen, made, cond), shown

        batch = {"whole": _scaled(whole)} | ({} if small is None else {"small": _scaled(small)})
        program = exp.jit((self.owner, "whole", *(x.shape for x in batch.values())), run)
        made, seen = jax.device_get(program(w, batch, rng))
        return to_uint8(made)[0], to_uint8(seen)[0]


def _scaled(x: np.ndarray) -> Array:
    """[H, W, C] on the scale of bytes -> [1, H, W, C] in [-1, 1]."""
    return jnp.asarray(x, jnp.float32)[None] / 127.5 - 1.0
