"""Pictures in memory through a run: `jaxgen.apply.apply(images, run)`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxgen.apply.files import Picture, on_white, under
from jaxgen.apply.maker import Made, Maker, Tiling
from jaxgen.core.ranges import refuse_seed
from jaxgen.errors import UserError
from jaxgen.runs.trained import Trained

ALPHAS = ("net", "bicubic", "drop")


@dataclass(frozen=True)
class Way:
    """A run, and how pictures go through it."""

    maker: Maker
    tiling: Tiling
    num: int = 1  # results of each picture, of the seed and those after it
    seed: int = 0
    alpha: str = "net"  # one of ALPHAS: how it is enlarged, or that it is laid on white

    @staticmethod
    def open(
        run: Trained | str | Path, task: str = "", restorer: str = "", masked: bool = False, num: int = 1, seed: int = 0,
        tile: int | str = "auto", overlap: int | str = "auto", alpha: str = "net", weights: str = "ema", step: int = -1,
        changes: Mapping[str, Any] | None = None,
    ) -> "Way":  # fmt: skip
        """As `apply`; what does not fit together is a UserError before anything is made."""
        refuse_num(num)
        refuse_seed(seed)
        refuse_seed(seed + num - 1)
        if alpha not in ALPHAS:
            raise UserError(f"--alpha={alpha} is unknown; there are: {', '.join(ALPHAS)}")
        sides = [_side("--tile", tile, 1), _side("--overlap", overlap, 0)]
        changes = dict(changes or {})
        changes = {
            **({f"tasks.{task}.name": task} if task else {}),
            **({"method.restorer": restorer} if restorer else {}),
            **changes,
        }
        trained = run.changed(changes) if isinstance(run, Trained) else Trained.open(run, step, changes)
        (choice,) = trained.choose([weights])
        maker = Maker(trained, choice, masked)
        return Way(maker, maker.tiling(*sides), num, seed, alpha)

    def results(
        self, picture: Picture, known: np.ndarray | None, tick: Callable[[int], Any] = lambda n: None
    ) -> Iterator[tuple[Picture, Made]]:
        """`num` pictures; known: bool [H, W, 1], True where a pixel comes out bit for bit."""
        picture = on_white(picture) if self.alpha == "drop" else picture
        alpha = picture.alpha
        if alpha is not None and self.maker.scale > 1:
            alpha = self._enlarged(alpha, tick)
        for i in range(self.num):
            made = self.maker.through(picture.pixels, known, self.tiling, self.seed + i, tick)
            yield replace(picture, pixels=made.pixels, alpha=alpha), made

    def passes(self, alpha: bool) -> int:
        """How often the tiles of a picture go through the run."""
        return self.num + (alpha and self._by_net and self.maker.scale > 1)

    @property
    def _by_net(self) -> bool:
        """Whether the run enlarges alpha; one that makes colour would make colour of it."""
        return self.alpha == "net" and not self.maker.colours

    def _enlarged(self, alpha: np.ndarray, tick: Callable[[int], Any]) -> np.ndarray:
        if self._by_net:
            return self.maker.through(alpha, None, self.tiling, self.seed, tick).pixels
        size = tuple(side * self.maker.scale for side in alpha.shape[1::-1])
        image = Image.fromarray(alpha[..., 0] if alpha.dtype == np.uint8 else alpha[..., 0].astype(np.float32))
        found = np.asarray(image.resize(size, Image.Resampling.BICUBIC))[..., None]
        return np.clip(np.rint(found), 0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)


def apply(
    images: np.ndarray | Sequence[np.ndarray],
    run: Trained | str | Path,
    task: str = "",
    *,
    known: np.ndarray | Sequence[np.ndarray] | None = None,
    restorer: str = "",
    num: int = 1,
    seed: int = 0,
    tile: int | str = "auto",
    overlap: int | str = "auto",
    alpha: str = "net",
    weights: str = "ema",
    step: int = -1,
    changes: Mapping[str, Any] | None = None,
) -> np.ndarray | list[np.ndarray]:
    """What a run makes of pictures of any size: restored, completed, enlarged, translated, encoded and decoded.

    images: one picture, an array [H, W] or [H, W, C] of grey, grey and alpha, RGB or RGBA; a list of them; or [N, H, W, C]. uint8,
    uint16, or floats in [-1, 1], which are taken as 16 bits. What comes is of the same kind, as many times as large as the run
    enlarges, and [H, W, 3] where colour is made of grey; with num above 1 each result is an array [num, H, W, C]. run: a directory,
    or what `jaxgen.open` gave.
    known: for each picture an array [H, W], True where a pixel comes out bit for bit. task, restorer: what a run that was not
    trained for it does all the same (`task="hide", restorer="ddnm"`). tile, overlap: "auto", or pixels of the input. alpha: of what
    is enlarged, by the run ("net"), "bicubic", or "drop" (laid on white); else it stays. The rest as in `sample`.
    """
    single = isinstance(images, np.ndarray) and images.ndim < 4
    pictures = [images] if single else list(images)
    masks = [None] * len(pictures) if known is None else [known] if single else list(known)
    if len(masks) != len(pictures):
        raise UserError(f"known: {len(masks)} masks for {len(pictures)} pictures; give one each")
    way = Way.open(run, task, restorer, known is not None, num, seed, tile, overlap, alpha, weights, step, changes)
    exp, choice = way.maker.trained.exp, way.maker.choice
    found = []
    for i, (image, mask) in enumerate(zip(pictures, masks, strict=True)):
        picture = of_array(np.asarray(image), f"images[{i}]")
        if mask is not None:
            mask = np.asarray(mask).astype(bool)
            if mask.ndim not in (2, 3) or mask.shape[2:] not in ((), (1,)):
                raise UserError(f"known[{i}] has the shape {mask.shape}; a mask is [H, W], or [H, W, 1]")
            mask = mask.reshape(*mask.shape[:2], 1)
            refuse_mask(mask, picture.pixels.shape[:2], f"known[{i}]")
        with exp.explaining({choice.name: way.maker.w}, f"images[{i}]: "):
            made = [to_array(one, np.asarray(image)) for one, _ in way.results(picture, mask)]
        found.append(np.stack(made) if num > 1 else made[0])
    if single:
        return found[0]
    return np.stack(found) if isinstance(images, np.ndarray) else found


def of_array(image: np.ndarray, where: str) -> Picture:
    """A Picture of an array; another type or shape is a UserError."""
    x = image[..., None] if image.ndim == 2 else image
    if x.ndim != 3 or x.shape[-1] not in (1, 2, 3, 4) or not x.size:
        raise UserError(f"{where} has the shape {image.shape}; a picture is [H, W] or [H, W, C] of 1 to 4 channels")
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise UserError(f"{where} holds NaN or infinity")
        x = np.clip(np.rint((x.astype(np.float64) + 1) * 32_767.5), 0, 65_535).astype(np.uint16)
    if x.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{where} is of {x.dtype}; a picture is uint8, uint16, or floats in [-1, 1]")
    if x.shape[-1] % 2:
        return Picture(x)
    return Picture(under(x[..., :-1], x[..., -1:]), x[..., -1:])


def to_array(picture: Picture, like: np.ndarray) -> np.ndarray:
    """The Picture as an array of the type and, unless it has become colour, the number of axes of another."""
    x = picture.pixels if picture.alpha is None else np.concatenate([picture.pixels, picture.alpha], -1)
    x = (x / 32_767.5 - 1).astype(like.dtype) if like.dtype.kind == "f" else x
    return x[..., 0] if like.ndim == 2 and x.shape[-1] == 1 else x


def refuse_num(num: int) -> None:
    """A UserError for no result."""
    if num < 1:
        raise UserError(f"--num={num} must be at least 1")


def refuse_mask(known: np.ndarray, size: tuple[int, int], where: str) -> None:
    """A UserError for a mask of another size, and one of which nothing or everything is to be made anew."""
    if known.shape[:2] != size:
        raise UserError(
            f"{where} is {known.shape[1]}x{known.shape[0]} and the picture {size[1]}x{size[0]}; give a mask of its size"
        )
    if known.all():
        raise UserError(
            f"{where} says that nothing is to be made anew; paint white what is, or turn it round by --invert"
        )
    if not known.any():
        raise UserError(
            f"{where} says that all is to be made anew; paint black what is to stay, or turn it round by --invert"
        )


def preview(before: np.ndarray, after: np.ndarray, most: int = 2048) -> np.ndarray:
    """Two pictures beside each other, uint8 [H, W', 3], the first as large as the second; sides above `most` are thinned out."""
    scale = len(after) // len(before)
    step = max(1, -(-max(after.shape[:2]) // most))
    sides = [
        np.repeat(np.repeat(before, scale, 0), scale, 1)[::step, ::step] if scale > 1 else before[::step, ::step],
        after[::step, ::step],
    ]
    sides = [x if x.dtype == np.uint8 else (x >> 8).astype(np.uint8) for x in sides]
    sides = [np.repeat(x, 3, -1) if x.shape[-1] == 1 else x for x in sides]
    return np.concatenate([sides[0], np.full((len(sides[0]), 2, 3), 255, np.uint8), sides[1]], 1)


def _side(flag: str, value: int | str, least: int) -> int:
    """A number of pixels; -1 for auto."""
    if value == "auto":
        return -1
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if number < least:
        raise UserError(f"{flag}={value} must be auto, or a number of pixels from {least}")
    return number
