"""PixelCNN++ in PyTorch, NHWC in memory: the twin of jaxgen.nets.pixelcnnpp, whose names its parts have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def concat_elu(x: Tensor) -> Tensor:
    """elu of x and of -x, [B, 2 C, H, W]."""
    return F.elu(torch.cat([x, -x], 1))


class Normed(nn.Module):
    """A convolution with weight normalisation. pad: left, right, top, bottom; up: the transpose of one of stride 2."""

    def __init__(self, channels, features, kernel=(1, 1), pad=(0, 0, 0, 0), stride=1, up=False):
        super().__init__()
        self.kernel, self.pad, self.stride, self.up = kernel, pad, stride, up
        self.weight = nn.Parameter(torch.empty(features, channels, kernel[0] * kernel[1]))
        self.bias, self.length = nn.Parameter(torch.empty(features)), nn.Parameter(torch.empty(features))
        self.register_buffer("unit", torch.empty(features))
        self.register_buffer("shift", torch.empty(features))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.length * self.unit * self.weight.square().sum((1, 2)).clamp(min=1e-12).rsqrt()
        weight = (self.weight * scale[:, None, None]).unflatten(2, self.kernel)
        if not self.up:
            return F.conv2d(F.pad(x, self.pad) if any(self.pad) else x, weight, self.bias + self.shift, self.stride)
        side = self.kernel[1] // 3  # 2x3 taps reach over both sides
        weight = weight.transpose(0, 1)
        return F.conv_transpose2d(x, weight, self.bias + self.shift, 2, padding=(0, side), output_padding=(0, side))


def row_conv(channels: int, features: int, stride: int = 1) -> Normed:
    """Of the stream of rows: 2x3 taps."""
    return Normed(channels, features, (2, 3), (1, 1, 1, 0), stride)


def causal_conv(channels: int, features: int, stride: int = 1) -> Normed:
    """Of the stream of pixels: 2x2 taps."""
    return Normed(channels, features, (2, 2), (1, 0, 1, 0), stride)


CONVS = {True: ("RowConv", row_conv), False: ("CausalConv", causal_conv)}


class GatedResnet(nn.Module):
    """x + a sigmoid(b)."""

    def __init__(self, rows: bool, width: int, beside: int):
        super().__init__()
        name, conv = CONVS[rows]
        self.first, self.last = f"{name}_0", f"{name}_1"
        self.add_module(self.first, conv(2 * width, width))
        self.add_module(self.last, conv(2 * width, 2 * width))
        self.beside = Normed(2 * beside, width) if beside else None

    def forward(self, x: Tensor, beside: Tensor | None) -> Tensor:
        y = getattr(self, self.first)(concat_elu(x))
        if beside is not None:
            y = y + self.beside(concat_elu(beside))
        a, b = getattr(self, self.last)(concat_elu(y)).chunk(2, 1)
        return x + a * torch.sigmoid(b)


class Level(nn.Module):
    """One resolution of a stream and what is below it."""

    def __init__(self, rows: bool, levels: int, blocks: int, width: int):
        super().__init__()
        self.rows, self.blocks, (name, conv) = rows, blocks, CONVS[rows]
        self.ups = blocks + (levels > 1)
        for i in range(blocks + self.ups):
            beside = width * (1 if i < blocks else 2) if not rows else width * (i >= blocks)
            self.add_module(f"GatedResnet_{i}", GatedResnet(rows, width, beside))
        self.below = None
        if levels > 1:
            self.half = f"{name}_0"
            self.add_module(self.half, conv(width, width, 2))
            self.below = Level(rows, levels - 1, blocks, width)
            self.up = Normed(width, width, (2, 3) if rows else (2, 2), up=True)

    def forward(self, x: Tensor, others: tuple) -> tuple[Tensor, tuple]:
        block = lambda i: getattr(self, f"GatedResnet_{i}")  # noqa: E731
        down, under, up, skips = [], (), [], [x]
        for i in range(self.blocks):
            x = block(i)(x, others[0][i] if others else None)
            down.append(x)
        skips += down
        if self.below is not None:
            x, under = self.below(getattr(self, self.half)(x), others and others[1])
            x = self.up(x)
        else:
            skips.pop()
        for i, skip in enumerate(reversed(skips)):
            x = block(self.blocks + i)(x, torch.cat([others[2][i], skip], 1) if others else skip)
            up.append(x)
        return x, (down, under, up)


class PixelCnnPP(nn.Module):
    """x [B, 3, H, W] in [-1, 1] -> the mixture's parameters [B, 10 mixtures, H, W]."""

    def __init__(self, width: int, blocks: int, levels: int, mixtures: int):
        super().__init__()
        self.mixtures = mixtures
        self.up_rows, self.up_row = row_conv(4, width), Normed(4, width, (1, 3), (1, 1, 0, 0))
        self.left = Normed(4, width, (2, 1), (0, 0, 1, 0))
        self.rows, self.pixels = (Level(rows, levels, blocks, width) for rows in (True, False))
        self.out = Normed(width, 10 * mixtures)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        up, left = F.pad(x[:, :, :-1], (0, 0, 1, 0)), F.pad(x[..., :-1], (1, 0))
        others = self.rows(self.up_rows(up), ())[1]
        return self.out(F.elu(self.pixels(self.up_row(up) + self.left(left), others)[0]))

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """[B] nats."""
        k = self.mixtures
        logits, rest = out[:, :k], out[:, k:].unflatten(1, (3, 3, k))  # channel, kind
        mean, log_scale, c = rest[:, :, 0], rest[:, :, 1].clamp(min=-7.0), torch.tanh(rest[:, :, 2])
        red, green = x[:, 0, None], x[:, 1, None]
        moved = [mean[:, 0], mean[:, 1] + c[:, 0] * red, mean[:, 2] + c[:, 1] * red + c[:, 2] * green]
        x, mean = x[:, :, None], torch.stack(moved, 1)
        half, sharp = 1.0 / 255.0, torch.exp(-log_scale)
        below, above = F.logsigmoid((x + half - mean) * sharp), F.logsigmoid(-(x - half - mean) * sharp)
        inside = below + above + torch.log(-torch.expm1(-2.0 * half * sharp))
        each = torch.where(x.abs() > 1.0 - half, torch.where(x < 0.0, below, above), inside).sum(1)
        return -torch.logsumexp(F.log_softmax(logits, 1) + each, 1).sum((1, 2))
