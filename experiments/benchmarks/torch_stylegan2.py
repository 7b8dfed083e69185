"""StyleGAN2's nets in PyTorch: twins of `jaxgen.nets.stylegan2`, with the names that it has, for unlabelled images.

Resampling is a grouped convolution with the filter (1, 3, 3, 1). A convolution that a style modulates comes in both known
forms, `grouped`: one kernel for each image (the paper's), or the inputs and outputs of one shared kernel scaled.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SKIP_GAIN = math.sqrt(0.5)


def fir(x: Tensor, padding: int, stride: int = 1, gain: float = 1.0, up: bool = False) -> Tensor:
    """x [B, C, H, W] by the filter, every channel alike; up: with zeros between the pixels first."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8.0
    f = (gain * torch.outer(line, line)).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return (F.conv_transpose2d if up else F.conv2d)(x, f, None, stride, padding, groups=x.shape[1])


def resampled(x: Tensor, w: Tensor, way: str, groups: int = 1) -> Tensor:
    """Convolution with w [O, C, k, k] that keeps, doubles or halves height and width."""
    k = w.shape[-1]
    if way == "same":
        return F.conv2d(x, w, None, 1, k // 2, groups=groups)
    if way == "down":
        return F.conv2d(fir(x, 1, 2), w) if k == 1 else F.conv2d(fir(x, 2), w, None, 2)
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return fir(F.conv_transpose2d(x, w, None, 2, groups=groups), 1, gain=4.0)


def activate(x: Tensor, gain: float, clamp: float) -> Tensor:
    """Leaky ReLU of gain sqrt 2."""
    x = F.leaky_relu(x, 0.2, inplace=True) * (math.sqrt(2) * gain)
    return x.clamp(-clamp * gain, clamp * gain) if clamp else x


class Layer(nn.Module):
    """`weight` ~ N(0, 1), scaled when it is used, and `bias`."""

    def __init__(self, *shape: int, bias: bool = True, lr_mul: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / lr_mul)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.scale, self.lr_mul = lr_mul / math.sqrt(math.prod(shape[1:])), lr_mul


class EqualDense(Layer):
    """[B, C] -> [B, features]."""

    def __init__(self, before: int, features: int, lr_mul: float = 1.0, active: bool = False):
        super().__init__(features, before, lr_mul=lr_mul)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return activate(x, 1.0, 0.0) if self.active else x


class EqualConv(Layer):
    """[B, C, H, W] -> [B, features, H', W']."""

    def __init__(
        self, before: int, features: int, size: int = 3, way: str = "same", clamp: float = 0.0, gain: float = 1.0
    ):
        super().__init__(features, before, size, size)
        self.way, self.clamp, self.gain = way, clamp, gain

    def forward(self, x: Tensor) -> Tensor:
        x = resampled(x, (self.weight * self.scale).to(x.dtype), self.way) + self.bias.to(x.dtype)[:, None, None]
        return activate(x, self.gain, self.clamp)


class Shortcut(Layer):
    """A halved 1x1 convolution without bias."""

    def __init__(self, before: int, features: int):
        super().__init__(features, before, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return resampled(x, (self.weight * self.scale).to(x.dtype), "down") * SKIP_GAIN


class Modulated(Layer):
    """A convolution whose input channels w scales."""

    grouped, random = False, True

    def __init__(self, before: int, features: int, size: int, w_dim: int, way: str, clamp: float):
        super().__init__(features, before, size, size)
        self.affine, self.way, self.clamp = EqualDense(w_dim, before), way, clamp

    def convolved(self, x: Tensor, style: Tensor, demodulate: bool) -> Tensor:
        """style [B, C]."""
        w = self.weight
        if self.grouped:
            w = w * style[:, None, :, None, None]  # [B, O, C, k, k]
            w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8) if demodulate else w
            x = resampled(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1).to(x.dtype), self.way, len(style))
            return x.unflatten(1, (len(style), -1))[0]
        y = resampled(x * style.to(x.dtype)[..., None, None], w.to(x.dtype), self.way)
        if demodulate:
            norm = torch.rsqrt(style.square() @ w.square().sum((2, 3)).T + 1e-8)
            y = y * norm.to(x.dtype)[..., None, None]
        return y


class StyledConv(Modulated):
    """With noise, bias and activation."""

    def __init__(self, before: int, features: int, grid: int, w_dim: int, way: str, clamp: float):
        super().__init__(before, features, 3, w_dim, way, clamp)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(grid, grid))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolved(x, self.affine(w), True)
        drawn = torch.randn(len(x), 1, *x.shape[2:], device=x.device) if self.random else self.noise_const
        x = x + (self.noise_strength * drawn).to(x.dtype)
        return activate(x.add_(self.bias.to(x.dtype)[:, None, None]), 1.0, self.clamp)


class ToImage(Modulated):
    """1x1, not demodulated."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolved(x, self.affine(w) / math.sqrt(x.shape[1]), False) + self.bias.to(x.dtype)[:, None, None]
        return (x.clamp(-self.clamp, self.clamp) if self.clamp else x).float()


class SynthesisBlock(nn.Module):
    """A resolution of the "skip" generator."""

    def __init__(
        self, before: int, features: int, channels: int, grid: int, w_dim: int, clamp: float, dtype: torch.dtype
    ):
        super().__init__()
        self.dtype = dtype
        if before:
            self.conv0 = StyledConv(before, features, grid, w_dim, "up", clamp)
        else:
            self.const = nn.Parameter(torch.randn(grid, grid, features))
        self.conv1 = StyledConv(features, features, grid, w_dim, "same", clamp)
        self.torgb = ToImage(features, channels, 1, w_dim, "same", clamp)

    def forward(self, x: Tensor | None, image: Tensor | None, ws: list[Tensor]) -> tuple[Tensor, Tensor]:
        if x is None:
            x = self.const.permute(2, 0, 1).expand(len(ws[0]), -1, -1, -1).to(self.dtype)
        else:
            x = self.conv0(x.to(self.dtype), ws.pop(0))
        x = self.conv1(x, ws.pop(0))
        made = self.torgb(x, ws[0])
        return x, made if image is None else fir(image, 1, 2, 4.0, up=True) + made


def resolutions(
    side: int, base: int, channel_base: int, channel_max: int, half: int
) -> list[tuple[int, int, torch.dtype]]:
    """(grid, channels, type of numbers), the coarsest first."""
    grids = [base << i for i in range(int(math.log2(side // base)) + 1)]
    kinds = [torch.bfloat16 if i > 0 and len(grids) - i <= half else torch.float32 for i in range(len(grids))]
    return [(n, min(channel_base // n, channel_max), kind) for n, kind in zip(grids, kinds, strict=True)]


class StyleGan2Generator(nn.Module):
    """z [B, Z] -> [B, C, H, W]."""

    def __init__(
        self, shape, z_dim, base, channel_base, channel_max, w_dim, layers, lr_mul, architecture, clamp, half, mixing, beta
    ):  # fmt: skip
        super().__init__()
        assert architecture == "skip" and not mixing
        self.mapping, self.synthesis, before = nn.ModuleDict(), nn.ModuleDict(), 0
        for i in range(layers):
            self.mapping[f"fc{i}"] = EqualDense(w_dim if i else z_dim, w_dim, lr_mul, True)
        for grid, features, dtype in resolutions(shape[0], base, channel_base, channel_max, half):
            self.synthesis[f"b{grid}"] = SynthesisBlock(before, features, shape[-1], grid, w_dim, clamp, dtype)
            before = features
        self.register_buffer("mean_w", torch.zeros(1, w_dim))
        self.places, self.beta = 2 * len(self.synthesis), beta

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesize(self.map(z))

    def map(self, z: Tensor) -> Tensor:
        """ws [B, L, w_dim]."""
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping.values():
            w = layer(w)
        if self.training:
            self.mean_w.lerp_(w.detach().mean(0, keepdim=True), 1.0 - self.beta)
        return w[:, None].expand(-1, self.places, -1)

    def synthesize(self, ws: Tensor) -> Tensor:
        """Images."""
        x, image, styles = None, None, list(ws.unbind(1))
        for block in self.synthesis.values():
            x, image = block(x, image, styles)
        return image


class DiscriminatorBlock(nn.Module):
    """A resolution; the first reads the image."""

    def __init__(self, channels: int, features: int, out: int, residual: bool, clamp: float, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.fromrgb = EqualConv(channels, features, 1, clamp=clamp) if channels else nn.Identity()
        self.conv0 = EqualConv(features, features, clamp=clamp)
        self.conv1 = EqualConv(features, out, way="down", clamp=clamp, gain=SKIP_GAIN if residual else 1.0)
        self.skip = Shortcut(features, out) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.fromrgb(x.to(self.dtype))
        y = self.conv1(self.conv0(x))
        return y if self.skip is None else self.skip(x) + y


class DiscriminatorEnd(nn.Module):
    """The coarsest resolution -> [B, 1]."""

    def __init__(self, features: int, grid: int, group: int, clamp: float):
        super().__init__()
        self.group = group
        self.conv = EqualConv(features + 1, features, clamp=clamp)
        self.fc, self.out = EqualDense(grid**2 * features, features, active=True), EqualDense(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = next(n for n in range(min(self.group, len(x)), 0, -1) if len(x) % n == 0)
        groups = x.float().unflatten(0, (size, -1))  # [size, B / size, C, H, W]
        std = torch.sqrt(groups.var(0, correction=0) + 1e-8).mean((1, 2, 3)).repeat(size)
        x = self.conv(torch.cat([x.float(), std[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1))
        return self.out(self.fc(x.permute(0, 2, 3, 1).flatten(1)))


class StyleGan2Discriminator(nn.Module):
    """[B, C, H, W] -> logits [B]."""

    def __init__(self, shape, base, channel_base, channel_max, architecture, clamp, half, group, group_channels):
        super().__init__()
        assert architecture != "skip" and group_channels == 1
        sizes = resolutions(shape[0], base, channel_base, channel_max, half)[::-1]
        read = shape[-1]
        for (grid, features, dtype), (_, out, _) in pairwise(sizes):
            block = DiscriminatorBlock(read, features, out, architecture == "resnet", clamp, dtype)
            self.add_module(f"b{grid}", block)
            read = 0
        self.add_module(f"b{base}", DiscriminatorEnd(sizes[-1][1], base, group, clamp))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x[:, 0]
