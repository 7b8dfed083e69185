"""Regression: a net answers the pictures that it is told by the picture that was to be made, in one evaluation.

    L = sum_k w_k d_k(net(cond), x) + p perceptual(net(cond), x)

Super-resolution, denoising, deblurring, colour: what it is comes from the tasks of the run (`shrink`, `degrade`, `hide`).
Without clean pictures:

    Noise2Noise  x is the same picture spoilt a second time (Lehtinen et al. 2018, arXiv:1803.04189): the mean of both is the same
    Noise2Void   x is `seen` itself, at places that the net is not shown: a neighbour's value stands there (Krull et al. 2018,
                 arXiv:1811.10980, sec. 3.2), and the loss is of these places alone
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond
from jaxgen.core.lender import Loan, Role
from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.ranges import Inside, NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float, within
from jaxgen.losses.distance import L1, Distance, distance
from jaxgen.methods.first_stage import NoPerceptual, Perceives
from jaxgen.metrics.pixel import PERFECT

NEAR = 2  # pixels: the neighbours of Noise2Void are in a square of 5x5


@dataclass(frozen=True, kw_only=True)
class Regress(LossMethod):
    """The net is called as net(cond, train) -> [B, H, W, C] in about [-1, 1].

    ensemble: samples are the mean of eight answers, to the pictures mirrored and turned (EDSR's "+").
    """

    makes: ClassVar[tuple[str, ...]] = ("image",)

    pixel_loss: Distance | tuple[Distance, ...] = field(default_factory=L1)
    perceptual: Any = field(default_factory=NoPerceptual)  # none, lpips or native
    perceptual_weight: NonNegative = 1.0
    learn_from: Literal["clean", "noise2noise", "noise2void"] = "clean"
    blind: Inside = 0.015  # the share of places that are hidden at a step of noise2void: 64 of 64 x 64 in the paper
    ensemble: bool = False

    def __post_init__(self) -> None:
        told, scale = self.spec.conditions.of("image", "mask"), getattr(self.net.module, "scale", 1)
        if not told:
            raise UserError(
                f"regress answers pictures, and the run is told {self.spec.conditions or 'nothing'}; set "
                "config.tasks.degrade={}, or config.tasks.shrink={}"
            )
        if first := getattr(self.net.module, "first", ""):
            (height, width), (h, w) = self.spec.shape[:2], told[first].shape[:2]
            if (h * scale, w * scale) != (height, width):
                # a net that keeps the size gives way to one that enlarges
                own = any(one.name == "scale" for one in fields(self.net.module))
                other = "" if own else "config.method.net.name=edsr "
                cure = f"set {other}config.method.net.scale={height // h}"
                raise UserError(
                    f"config.method.net enlarges {scale} times, and {height}x{width} is to be made of {h}x{w}; {cure}"
                )
        if self.learn_from == "noise2noise" and "other" not in self.spec:
            raise UserError(
                "noise2noise learns from a second noisy picture; set config.tasks.degrade.again=True, or "
                "config.method.learn_from=clean"
            )
        if self.learn_from == "noise2void" and (scale != 1 or "seen" not in told):
            raise UserError(
                "noise2void learns from the noisy picture alone, which the task degrade makes; set config.tasks.degrade={}, or "
                "config.method.learn_from=clean"
            )

    def loans(self) -> dict[str, Loan]:
        """The net that compares pictures."""
        if isinstance(self.perceptual, NoPerceptual):
            return {}
        return {"perceptual": Loan(self.perceptual, Role(Perceives, "classifier to compare pictures with"))}

    def example(self, batch: Batch) -> tuple:
        """What the net is told."""
        return (self.conditions(batch),)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """L [B]; `mse` and `psnr` (dB) of the answer against the clean picture, [B]. Held-out loss is against that in any case."""
        hide_rng, net_rng = jax.random.split(rng)
        cond, clean, where = self.conditions(batch), self.target(batch), None
        x = clean
        if train and self.learn_from == "noise2noise":
            x = to_float(batch["other"])
        elif train and self.learn_from == "noise2void":
            x = cond["seen"]
            hidden, where = blind_spots(x, self.blind, hide_rng)
            cond = {**cond, "seen": hidden}
        y, vars = self.net.apply(w.nets["net"], cond, train=train, rngs={"dropout": net_rng})
        metrics = {"mse": jnp.square(within(y) - clean).reshape(len(x), -1).mean(-1)}
        metrics["psnr"] = jnp.minimum(10.0 * jnp.log10(4.0 / metrics["mse"]), PERFECT)
        value = distance(self.pixel_loss, y, x, where)
        if lent := w.frozen.get("perceptual"):
            metrics["perceptual"] = lent.model.distance(lent.weights, y, x)
            value = value + self.perceptual_weight * metrics["perceptual"]
        return Loss(value, metrics, vars)

    def answer(self, w: Weights, cond: Cond) -> Array:
        """The picture that the net makes of what it is told, within [-1, 1]."""

        def made(cond: Cond) -> Array:
            return self.net.apply(w.nets["net"], cond)[0]

        if not self.ensemble:
            return within(made(cond))
        places = self.spec.conditions.of("image", "mask")
        return within(sum(self._moved(made, cond, places, turns, flip) for turns in range(4) for flip in (0, 1)) / 8)

    @staticmethod
    def _moved(made: Callable[[Cond], Array], cond: Cond, places: Any, turns: int, flip: int) -> Array:
        """What is made of pictures that are mirrored and turned, turned and mirrored back."""

        def there(x: Array) -> Array:
            return jnp.rot90(x[:, :, ::-1] if flip else x, turns, (1, 2))

        y = jnp.rot90(made({k: there(v) if k in places else v for k, v in cond.items()}), -turns, (1, 2))
        return y[:, :, ::-1] if flip else y

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """The answer, [num, H, W, C]; nothing is drawn."""
        return self.answer(w, cond)

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The answer to what the tasks made of the pictures."""
        return self.answer(w, self.conditions(batch))

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The answer to a picture that has been spoilt already, by whatever it was."""
        if list(self.spec.conditions) != ["seen"]:
            raise UserError(
                f"only a net that is told a spoilt picture alone can be given any, and this one is told {self.spec.conditions}; "
                "set config.eval.restoration=None"
            )
        return self.answer(w, {"seen": self.target(batch)})


def blind_spots(x: Array, share: float, rng: Array) -> tuple[Array, Array]:
    """(pictures [B, H, W, C] in which a share of the pixels is a neighbour's value, 1 at these places [B, H, W, 1]).

    The neighbour is any other of the square of 5x5 around; past the border the picture is mirrored.
    """
    where_rng, which_rng = jax.random.split(rng)
    places = (*x.shape[:3], 1)
    where = jax.random.bernoulli(where_rng, share, places)
    side = 2 * NEAR + 1
    drawn = jax.random.randint(which_rng, places, 0, side * side - 1)
    drawn = jnp.where(drawn >= side * side // 2, drawn + 1, drawn)  # never itself
    padded = jnp.pad(x, ((0, 0), (NEAR, NEAR), (NEAR, NEAR), (0, 0)), "symmetric")
    height, width = x.shape[1:3]
    near = x
    for i in range(side * side):
        row, column = divmod(i, side)
        near = jnp.where(drawn == i, padded[:, row : row + height, column : column + width], near)
    return jnp.where(where, near, x), where.astype(jnp.float32)
