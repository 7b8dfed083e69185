"""ControlNet: a second way down, which is shown a picture, steers a UNet (Zhang et al. 2023, arXiv:2302.05543).

It is the first half of the UNet that it steers, with the picture's features added behind the first convolution; what it finds at
every step of the way goes through a 1x1 convolution that starts at zero to the skips and the middle of the UNet. So in the
beginning it changes nothing.
"""

import dataclasses

from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Number
from jaxgen.core.spec import Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import value
from jaxgen.nets.layers import Conv
from jaxgen.nets.unet_condition import Residuals, UNetCondition

zeros = nn.initializers.zeros


class ControlNet(UNetCondition):
    """What is added to a UNet of the same fields that is told a text and a picture.

    x [B, H, W, C], t and cond as the UNet's; the picture among the conditions is 2^(len(hint_widths) - 1) times as high and wide
    as x -> `Residuals`.

    hint_widths: channels of the convolutions that read the picture; all but the first halve it. strength: of what is added.
    """

    hint_widths: tuple[Count, ...] = (16, 32, 96, 256)
    strength: Number = 1.0

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Residuals:
        told = self.told(t, cond, train)
        start = self.conv_in(x, cond)
        skips = self.down(start + self.hint(cond, start.shape), told)
        found = [*skips, self.middle(skips[-1], told)]
        names = [f"zero{i}" for i in range(len(skips))] + ["zero_mid"]
        found = [
            Conv(h.shape[-1], 1, dtype=self.dtype, kernel_init=zeros, name=name)(h) * self.strength
            for h, name in zip(found, names, strict=True)
        ]
        return Residuals(found[:-1], found[-1])

    def joined(self) -> Spec:
        """All but the picture that steers."""
        return self.conditions.where(lambda _, field: field.kind != "image")

    def hint(self, cond: Cond | None, like: tuple[int, ...]) -> Array:
        """Features of the picture [B, H, W, width]."""
        names = list(self.conditions.of("image"))
        if len(names) != 1:
            raise UserError(f"ControlNet is steered by one picture, and it is told: {self.conditions or 'nothing'}")
        h, factor = value(self.conditions, cond, names[0], like[0]), 2 ** (len(self.hint_widths) - 1)
        if h.shape[1:3] != (factor * like[1], factor * like[2]):
            raise UserError(
                f"ControlNet is shown {names[0]!r} of {h.shape[1]} x {h.shape[2]} pixels and needs {factor * like[1]} x "
                f"{factor * like[2]}: {factor} times as many as there are places; set hint_widths, one width more for each halving"
            )
        convs = [Conv(self.hint_widths[0], 3, padding=1, dtype=self.dtype, name="hint_in")]
        for i, (same, wider) in enumerate(zip(self.hint_widths, self.hint_widths[1:], strict=False)):
            convs.append(Conv(same, 3, padding=1, dtype=self.dtype, name=f"hint{2 * i}"))
            convs.append(Conv(wider, 3, 2, padding=1, dtype=self.dtype, name=f"hint{2 * i + 1}"))
        for conv in convs:
            h = nn.silu(conv(h))
        return Conv(like[-1], 3, padding=1, dtype=self.dtype, kernel_init=zeros, name="hint_out")(h)


class ControlledUNet(UNetCondition):
    """A `UNetCondition` with a ControlNet of the same fields, its params under "control".

    With `optimizer.train="control/.*"` the UNet stays as it was. hint_widths, strength: the ControlNet's.
    """

    hint_widths: tuple[Count, ...] = (16, 32, 96, 256)
    strength: Number = 1.0

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        own = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(ControlNet)
            if f.init and f.name not in ("parent", "name")
        }
        return super().__call__(x, t, cond, train, ControlNet(**own, name="control")(x, t, cond, train))

    def joined(self) -> Spec:
        """All but the picture that steers."""
        return ControlNet.joined(self)
