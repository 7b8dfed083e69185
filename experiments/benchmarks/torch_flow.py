"""Glow in PyTorch, as rosinality/glow-pytorch writes it (LU by masks, 1x1 convolutions), with the names of jaxgen's net."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def squeeze(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 4C, H/2, W/2], NHWC in memory."""
    return F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)


class ActNorm(nn.Module):
    """(x + bias) exp(logs), with what the first batch gave."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias, self.logs = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.register_buffer("first_bias", torch.zeros(channels))
        self.register_buffer("first_logs", torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bias, logs = self.bias + self.first_bias, self.logs + self.first_logs
        x = (x + bias.view(1, -1, 1, 1)) * logs.exp().view(1, -1, 1, 1)
        return x, logs.sum() * x[0, 0].numel()


class Mix(nn.Module):
    """A 1x1 convolution by its LU decomposition."""

    def __init__(self, channels: int):
        super().__init__()
        self.lower, self.upper = (nn.Parameter(torch.zeros(channels, channels)) for _ in range(2))
        self.logs = nn.Parameter(torch.zeros(channels))
        self.register_buffer("order", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("sign", torch.ones(channels))
        self.register_buffer("mask", torch.tril(torch.ones(channels, channels), -1))
        self.register_buffer("eye", torch.eye(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lower = self.lower * self.mask + self.eye
        upper = self.upper * self.mask.T + torch.diag(self.sign * self.logs.exp())
        weight = (lower @ upper)[self.order]
        return F.conv2d(x, weight[:, :, None, None]), self.logs.sum() * x[0, 0].numel()


class ZeroConv(nn.Module):
    """3x3, times exp(3 logs)."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.Conv_0, self.logs = nn.Conv2d(channels, features, 3, padding=1), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv_0(x) * (3.0 * self.logs).exp().view(1, -1, 1, 1)


class GlowNet(nn.Module):
    """3x3, 1x1, 3x3."""

    def __init__(self, channels: int, width: int, features: int):
        super().__init__()
        self.Conv_0, self.ActNorm_0 = nn.Conv2d(channels, width, 3, padding=1, bias=False), ActNorm(width)
        self.Conv_1, self.ActNorm_1 = nn.Conv2d(width, width, 1, bias=False), ActNorm(width)
        self.ZeroConv_0 = ZeroConv(width, features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.ActNorm_0(self.Conv_0(x))[0], inplace=True)
        x = F.relu(self.ActNorm_1(self.Conv_1(x))[0], inplace=True)
        return self.ZeroConv_0(x)


class AffineCoupling(nn.Module):
    """The second half moves."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.net = GlowNet(channels // 2, width, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        shift, scale = self.net(a).chunk(2, 1)
        logs = F.logsigmoid(scale + 2.0)
        return torch.cat([a, (b + shift) * logs.exp()], 1), logs.sum((1, 2, 3))


class GlowStep(nn.Module):
    """Actnorm, mixing, coupling."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm, self.mix, self.coupling = ActNorm(channels), Mix(channels), AffineCoupling(channels, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = 0.0
        for part in (self.norm, self.mix, self.coupling):
            x, logdet = part(x)
            total = total + logdet
        return x, total


class SplitPrior(nn.Module):
    """Normals said by what stays."""

    def __init__(self, channels: int):
        super().__init__()
        self.net = ZeroConv(channels, 2 * channels)

    def forward(self, x: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
        mean, logs = self.net(stays).chunk(2, 1)
        return (x - mean) * (-logs).exp(), -logs.sum((1, 2, 3))


class Top(nn.Module):
    """A normal for every channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias, self.logs = (nn.Parameter(torch.zeros(2 * channels)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logs = (self.bias * (3.0 * self.logs).exp()).view(1, -1, 1, 1).chunk(2, 1)
        return (x - mean) * (-logs).exp(), -logs.sum() * x[0, 0].numel()


class Glow(nn.Module):
    """u [B, C, H, W] in [0, 1] -> log p(u) and log |det|, [B] each."""

    def __init__(self, shape, levels: int, depth: int, width: int):
        super().__init__()
        channels, self.levels = shape[-1], levels
        for i in range(levels):
            channels *= 4
            self.add_module(f"stages_{i}_1", nn.ModuleList(GlowStep(channels, width) for _ in range(depth)))
            if i < levels - 1:
                channels //= 2
                self.add_module(f"priors_{i}", SplitPrior(channels))
        self.top = Top(channels)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        x, total, normal = u - 0.5, 0.0, 0.0
        for i in range(self.levels):
            x = squeeze(x)
            for step in self.get_submodule(f"stages_{i}_1"):
                x, logdet = step(x)
                total = total + logdet
            if i < self.levels - 1:
                x, gone = x.chunk(2, 1)
                z, logdet = self.get_submodule(f"priors_{i}")(gone, x)
                total, normal = total + logdet, normal + self.normal(z)
        z, logdet = self.top(x)
        return normal + self.normal(z) + total + logdet, total + logdet

    def normal(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1), [B]."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum((1, 2, 3))


def apart(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """jaxgen's stacked steps, exported, as a state dict: `stages_0_1.step.norm.bias` [K, C] -> `stages_0_1.3.norm.bias` [C]."""
    found = {}
    for name, value in weights.items():
        head, loop, tail = name.partition(".step.")
        for i, one in enumerate(value) if loop else [("", value)]:
            one = one.transpose(3, 2, 0, 1) if loop and one.ndim == 4 else one
            found[f"{head}.{i}.{tail}" if loop else name] = one
    return found


def stacked(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `apart`."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, value in found.items():
        head, *rest = name.split(".")
        loop = head.startswith("stages")
        value = value.transpose(2, 3, 1, 0) if loop and value.ndim == 4 else value
        groups.setdefault(".".join([head, "step", *rest[1:]]) if loop else name, []).append(value)
    return {k: np.stack(v) if ".step." in k else v[0] for k, v in groups.items()}
