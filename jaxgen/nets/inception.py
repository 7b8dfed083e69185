"""Inception-v3 in the form that FID, KID and the Inception Score are defined on.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision" (arXiv:1512.00567), as Google's frozen
graph of 2015-12-05 has it (Heusel et al. 2017 used that graph; pytorch-fid converted its weights). What that graph
does otherwise than torchvision's Inception3, every item worth a tenth of the features or more:

- the average pools of the blocks do not count their padding;
- the last block (Mixed_7c) pools by maximum;
- batch normalisation has eps 1e-3 (here it is folded into the convolutions when weights are imported);
- the classifier has 1008 outputs, and there is no auxiliary head.

Blocks and convolutions carry torchvision's names. The frozen graph counts its blocks: `mixed` to `mixed_2` are Mixed_5b
to 5d, `mixed_3` is Mixed_6a, `mixed_4` to `mixed_7` are Mixed_6b to 6e, `mixed_8` to `mixed_10` are Mixed_7a to 7c.

Two exact rewrites save time. The 1x1 convolutions that read a block's input are one matrix product; and since an
average over positions commutes with a 1x1 convolution, the pooled branch is convolved first, to fewer channels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array

from jaxgen.errors import UserError
from jaxgen.nets.convolution import Padding, conv2d, dense
from jaxgen.nets.pool import average_pool, max_pool

SIZE = 299  # pixels a side that the published weights expect
SPATIAL_CHANNELS = 7


@struct.dataclass
class Taps:
    """What the net shows of B images of 299x299 pixels; under jit, what is not used is not computed.

    block0 [B, 73, 73, 64]: after the first max pool. block1 [B, 35, 35, 192]: after the second.
    block2 [B, 17, 17, 768]: Mixed_6e, where torchvision's auxiliary head branches off.
    pool3 [B, 2048]: the mean over positions; the features of FID and KID.
    logits [B, 1008]: the classifier `fc`. logits_unbiased: without its bias, as in the Inception Score of Salimans et
        al. 2016, of guided-diffusion and of torch-fidelity.
    spatial [B, 2023]: the features of sFID (Nash et al. 2021), which guided-diffusion reads from "mixed_6/conv:0". That is
        the 1x1 branch of Mixed_6d; as the frozen graph names a layer's last operation after the layer (conv/Conv2D,
        conv/batchnorm, ..., conv), it is the branch AFTER normalisation and ReLU. Its first 7 channels, which are
        the first 7 of the block too, position by position: 17 * 17 * 7 = 2023.
    """

    block0: Array
    block1: Array
    block2: Array
    pool3: Array
    logits: Array
    logits_unbiased: Array
    spatial: Array


class Affine(nn.Module):
    """Kernel [kh, kw, channels, features] and bias [features] of a convolution, normalisation folded in."""

    features: int
    size: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, channels: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.size, channels, self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


def conv(
    x: Array, name: str, features: int, size: int | tuple[int, int], stride: int = 1, padding: Padding = "SAME"
) -> Array:
    """ReLU(x * kernel + bias), the weights being those of the submodule `name`."""
    size = (size, size) if isinstance(size, int) else size
    kernel, bias = Affine(features, size, name=name)(x.shape[-1])
    return nn.relu(conv2d(x, kernel, stride, padding) + bias)


def entry(x: Array, **features: int) -> list[Array]:
    """The 1x1 convolutions (name=features) of a block's input x [B, H, W, C], each as `conv` would give it.

    The one called `branch_pool` is of the 3x3 averages of x.
    """
    affine = [Affine(n, name=name)(x.shape[-1]) for name, n in features.items()]
    y = conv2d(x, jnp.concatenate([kernel for kernel, _ in affine], -1), 1, "VALID")
    outputs, start = [], 0
    for name, (_, bias) in zip(features, affine, strict=True):
        part = y[..., start : start + bias.size]
        outputs.append(nn.relu((average_pool(part) if name == "branch_pool" else part) + bias))
        start += bias.size
    return outputs


class BlockA(nn.Module):
    """Factored 5x5: [B, 35, 35, C] -> [B, 35, 35, 224 + pool]."""

    pool: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one, five, three, pool = entry(x, branch1x1=64, branch5x5_1=48, branch3x3dbl_1=64, branch_pool=self.pool)
        five = conv(five, "branch5x5_2", 64, 5)
        three = conv(conv(three, "branch3x3dbl_2", 96, 3), "branch3x3dbl_3", 96, 3)
        return jnp.concatenate([one, five, three, pool], -1)


class BlockB(nn.Module):
    """Halves the grid: [B, 35, 35, C] -> [B, 17, 17, 480 + C]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = conv(x, "branch3x3", 384, 3, 2, "VALID")
        twice = conv(conv(x, "branch3x3dbl_1", 64, 1), "branch3x3dbl_2", 96, 3)
        twice = conv(twice, "branch3x3dbl_3", 96, 3, 2, "VALID")
        return jnp.concatenate([three, twice, max_pool(x)], -1)


class BlockC(nn.Module):
    """Factored 7x7 of inner width `width`: [B, 17, 17, C] -> [B, 17, 17, 768]."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n = self.width
        one, seven, twice, pool = entry(x, branch1x1=192, branch7x7_1=n, branch7x7dbl_1=n, branch_pool=192)
        seven = conv(conv(seven, "branch7x7_2", n, (1, 7)), "branch7x7_3", 192, (7, 1))
        twice = conv(conv(twice, "branch7x7dbl_2", n, (7, 1)), "branch7x7dbl_3", n, (1, 7))
        twice = conv(conv(twice, "branch7x7dbl_4", n, (7, 1)), "branch7x7dbl_5", 192, (1, 7))
        return jnp.concatenate([one, seven, twice, pool], -1)


class BlockD(nn.Module):
    """Halves the grid: [B, 17, 17, C] -> [B, 8, 8, 512 + C]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three, seven = entry(x, branch3x3_1=192, branch7x7x3_1=192)
        three = conv(three, "branch3x3_2", 320, 3, 2, "VALID")
        seven = conv(conv(seven, "branch7x7x3_2", 192, (1, 7)), "branch7x7x3_3", 192, (7, 1))
        seven = conv(seven, "branch7x7x3_4", 192, 3, 2, "VALID")
        return jnp.concatenate([three, seven, max_pool(x)], -1)


class BlockE(nn.Module):
    """Branches that end side by side: [B, 8, 8, C] -> [B, 8, 8, 2048]. `maximum`: the pooled branch takes maxima."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        widths = dict(branch1x1=320, branch3x3_1=384, branch3x3dbl_1=448)
        if self.maximum:
            one, three, twice = entry(x, **widths)
            edged = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros are neutral: x is a ReLU's output
            pool = conv(max_pool(edged, 3, 1), "branch_pool", 192, 1)
        else:
            one, three, twice, pool = entry(x, **widths, branch_pool=192)
        twice = conv(twice, "branch3x3dbl_2", 384, 3)
        ends = [
            conv(part, f"{name}{side}", 384, size)
            for part, name in ((three, "branch3x3_2"), (twice, "branch3x3dbl_3"))
            for side, size in (("a", (1, 3)), ("b", (3, 1)))
        ]
        return jnp.concatenate([one, *ends, pool], -1)


class InceptionV3(nn.Module):
    """Images [B, 299, 299, 3] in [-1, 1] -> `Taps`. Other sizes pass, from 75 pixels on; resizing is a protocol's business.

    precision: of every product; a metric is refused unless it is "highest". Raises UserError for images that are
    not floating point with three channels.
    """

    classes: int = 1008
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Array) -> Taps:
        if x.ndim != 4 or x.shape[-1] != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"Inception reads float images [B, {SIZE}, {SIZE}, 3] in [-1, 1], not {x.dtype}{list(x.shape)}"
            )
        with jax.default_matmul_precision(self.precision):
            return self.taps(x.astype(jnp.float32))

    def taps(self, x: Array) -> Taps:
        x = conv(x, "Conv2d_1a_3x3", 32, 3, 2, "VALID")
        x = conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
        x = conv(x, "Conv2d_2b_3x3", 64, 3)
        block0 = max_pool(x)
        x = conv(block0, "Conv2d_3b_1x1", 80, 1)
        x = conv(x, "Conv2d_4a_3x3", 192, 3, 1, "VALID")
        block1 = x = max_pool(x)
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160)):
            x = BlockC(width, name=name)(x)
        x = BlockC(160, name="Mixed_6d")(x)
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        block2 = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(block2)
        x = BlockE(False, name="Mixed_7b")(x)
        x = BlockE(True, name="Mixed_7c")(x)
        pool3 = x.mean((1, 2))
        kernel, bias = Affine(self.classes, name="fc")(pool3.shape[-1])
        logits = dense(pool3, kernel[0, 0])
        return Taps(block0, block1, block2, pool3, logits + bias, logits, spatial)
