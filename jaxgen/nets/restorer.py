"""What nets that answer a picture by a picture have in common: restorers, enlargers, translators."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Precision
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import beside_text, image_shape, value, vector

Array = jax.Array


class Restorer(nn.Module, kw_only=True):
    """Called as net(cond): the pictures [B, h, w, ...] that it is told -> [B, scale h, scale w, C] in about [-1, 1].

    Convolutions all through, so that weights of one size serve every other: of `shape` only the channels count.
    """

    takes: ClassVar[tuple[str, ...]] = ("image", "mask", "embedding")
    of_pictures: ClassVar[bool] = True  # a generator of a GAN too
    scale: ClassVar[int] = 1  # nets that enlarge have a field of this name

    shape: TargetShape = (96, 96, 3)
    conditions: Conditions = Spec()
    dtype: Precision = "float32"

    @property
    def channels(self) -> int:
        """Of the answer."""
        return self.shape[-1]

    @property
    def first(self) -> str:
        """The picture that is to be mended or enlarged: the one that has the answer's channels."""
        found = [k for k, field in self.conditions.of("image").items() if field.shape[-1] == self.channels]
        if not found:
            raise UserError(
                f"{type(self).__name__} mends a picture of {self.channels} channels, and it is told: "
                f"{self.conditions or 'nothing'}; add config.tasks.degrade={{}} or config.tasks.shrink={{}}"
            )
        return found[0]

    def pictures(self, cond: Cond | None) -> Array:
        """All that it is told, side by side [B, h, w, K]: `first`, then other pictures, both in [0, 1], masks, and a constant map
        for every number of an embedding. Other pictures are brought to the size of `first` (cubic)."""
        num = len(next(iter(cond.values()))) if cond else 1
        main = 0.5 * (value(self.conditions, cond, self.first, num) + 1.0)
        image_shape(main.shape[1:], self, f"the condition {self.first!r}")
        parts = [main]
        told = beside_text(self.conditions)
        for name, field in sorted(told.of("image", "mask").items()):
            if name != self.first:
                x = value(told, cond, name, num)
                x = x if field.kind == "mask" else 0.5 * (x + 1.0)
                size = (*main.shape[:3], x.shape[-1])
                parts.append(x if x.shape == size else jax.image.resize(x, size, "cubic"))
        for name in sorted(told.of("embedding")):
            maps = vector(told, cond, name, num)[:, None, None]
            parts.append(jnp.broadcast_to(maps, (*main.shape[:3], maps.shape[-1])))
        return jnp.concatenate(parts, -1) if len(parts) > 1 else main


def answer(y: Array) -> Array:
    """[0, 1] -> [-1, 1], float32."""
    return 2.0 * y.astype(jnp.float32) - 1.0


def filled_up(x: Array, n: int) -> Array:
    """Pictures whose sides are multiples of n: the last row and column go on."""
    more = [-side % n for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), "edge") if any(more) else x
