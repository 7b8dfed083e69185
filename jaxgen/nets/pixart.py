"""The transformer of PixArt-alpha and -Sigma (Chen et al. 2023, arXiv:2310.00426, section 2.3; 2024, arXiv:2403.04692).

A DiT whose blocks look at a text between attention and MLP. What shifts, scales and gates them is computed of the time once for all
blocks, and each adds a table of its own (adaLN-single), which saves a quarter of the parameters.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Positive
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import Text, TextAttention, read_text, vector
from jaxgen.nets.dit import (
    TIME_WAVES,
    AdaLnBlock,
    Embedding,
    PatchTransformer,
    normed,
    position_waves,
    through,
)
from jaxgen.nets.layers import Dense, attention, ddpm_init, merge_heads, timestep_embedding

normal = nn.initializers.normal(0.02)


def table_init(width: int) -> nn.initializers.Initializer:
    """Of what a block adds to shifts, scales and gates."""
    return nn.initializers.normal(width**-0.5)


class PixArtBlock(AdaLnBlock):
    """Attention, attention to a text, an MLP: x [B, N, D], c [B, 6, D] -> [B, N, D]."""

    @nn.compact
    def __call__(self, x: Array, c: Array, text: Text) -> Array:
        d = x.shape[-1]
        table = self.param("table", table_init(d), (6, d))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(c + table.astype(c.dtype), 6, 1)  # [B, 1, D] each
        x = x + gate1 * self.linear(d, "out")(merge_heads(attention(*self.qkv(normed(x, shift1, scale1)))))
        x = x + TextAttention(self.heads, True, self.dtype, ddpm_init(), name="text")(x, text)
        return x + gate2 * self.mlp(normed(x, shift2, scale2))


class PixArt(PatchTransformer):
    """Any prediction of a diffusion model that is told a text; the defaults are PixArt-alpha for 512 pixels (0.61 G parameters).

    t [B] in diffusion steps, 0..999; cond: besides a text perhaps `pooled`, which has a net of its own, and an embedding `size`
    [3], height, width and their ratio, of which a net finds what is added to the embedding of time (the net's width is a
    multiple of 3 then).

    stretch: the waves of places are those of a picture so many times smaller; pictures of another size than `shape` have its waves.
    """

    shape: TargetShape = (64, 64, 4)
    depth: Count = 28
    width: Count = 1152
    heads: Count = 16
    stretch: Positive = 1.0

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        text = read_text(self.heard, cond, len(x), self)
        h, rows, columns = self.patches(x, cond)

        def linear(features, name):
            return Dense(features, dtype=self.dtype, kernel_init=ddpm_init(), name=name)

        side = self.shape[0] // self.patch / self.stretch
        h += jnp.asarray(position_waves(rows, columns, self.width, (side / rows, side / columns)), h.dtype)
        c = self.embed(t, cond)
        told = linear(self.width, "text1")(nn.gelu(linear(self.width, "text0")(text.states)))

        all_blocks = Dense(6 * self.width, dtype=self.dtype, kernel_init=normal, name="adaln")(nn.silu(c))
        args = (all_blocks.reshape(len(x), 6, -1), Text(told, text.mask))
        h = through(self.block(PixArtBlock), self.depth, "block", self.scan, h, *args)

        table = self.param("table", table_init(self.width), (2, self.width))
        return self.picture(h, *jnp.split(c[:, None] + table.astype(c.dtype), 2, 1), rows)

    def embed(self, t: Array, cond: Cond | None) -> Array:
        """The vector of time and what is added to it, [B, width]."""
        sized = "size" in self.heard.of("embedding")
        added = self.heard.where(lambda name, _: name != "size" or not sized)
        c = Embedding(self.width, added, self.null_label, pooled_net=True, dtype=self.dtype, name="embed")(t, cond)
        if not sized:
            return c
        size, part = vector(self.heard, cond, "size", len(t)), self.width // 3
        if size.shape[-1] != 3 or self.width % 3:
            raise UserError(
                f"PixArt is told a size of 3 numbers, not {size.shape[-1]}, and its width={self.width} is to be a multiple of 3; "
                f"set width={-(-self.width // 12) * 12}"
            )
        found = []
        for name, numbers in (("size", size[:, :2]), ("ratio", size[:, 2:])):  # one net for height and width
            waves = timestep_embedding(numbers.reshape(-1), TIME_WAVES, True, 0.0)
            h = nn.silu(Dense(part, dtype=self.dtype, kernel_init=normal, name=f"{name}0")(waves))
            found.append(Dense(part, dtype=self.dtype, kernel_init=normal, name=f"{name}1")(h).reshape(len(t), -1))
        return c + jnp.concatenate(found, -1)
