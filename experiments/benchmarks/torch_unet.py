"""The UNet of Ho et al. 2020 in PyTorch, NHWC in memory: the twin of a case of `nets_vs_torch.py`.

Module names are those of diffusers' `UNet2DModel`, so that `jaxgen.pretrained.diffusers.to_diffusers` fills it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resnet(nn.Module):
    """norm, silu, conv, + time, norm, silu, dropout, conv, + shortcut."""

    def __init__(self, inputs: int, outputs: int, emb: int, groups: int, eps: float, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h + self.time_emb_proj(emb)[:, :, None, None])
        h = self.conv2(self.dropout(F.silu(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    """Single-head self-attention over positions, by torch's fused kernel."""

    def __init__(self, channels: int, groups: int, eps: float):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, N, C]
        q, k, v = (f(h)[:, None] for f in (self.to_q, self.to_k, self.to_v))  # [B, 1, N, C]
        h = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Sampler(nn.Module):
    """A strided convolution padded (0, 1), or nearest doubling and a convolution."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The blocks of one level, on one way."""

    def __init__(self, widths: list[tuple[int, int]], attends: bool, sampler: str, emb: int, *norm):
        super().__init__()
        groups, eps, _ = norm
        self.resnets = nn.ModuleList(Resnet(i, o, emb, *norm) for i, o in widths)
        self.attentions = nn.ModuleList(Attention(o, groups, eps) for _, o in widths) if attends else None
        if sampler:
            setattr(self, f"{sampler}samplers", nn.ModuleList([Sampler(widths[-1][1], sampler == "up")]))
        self.sampler = sampler

    def block(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resnets[i](x, emb)
        return self.attentions[i](x) if self.attentions is not None else x

    def sample(self, x: Tensor) -> Tensor:
        return getattr(self, f"{self.sampler}samplers")[0](x)


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, width: int, emb: int, *norm):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(width, width, emb, *norm) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, *norm[:2])])

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, emb)), emb)


class TorchUNet(nn.Module):
    """x [B, C, H, W], t [B] -> [B, C, H, W]; the arguments are fields of `jaxgen.nets.unet.UNet`."""

    def __init__(self, shape, width, mults, blocks, attend, groups, dropout, norm_eps=1e-6):
        super().__init__()
        height, _, channels = shape
        widths, emb, norm = [width * m for m in mults], 4 * width, (groups, norm_eps, dropout)
        attends = [height // 2**i in attend for i in range(len(mults))]
        last = len(mults) - 1
        self.width = width
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.time_embedding = nn.ModuleDict(dict(linear_1=nn.Linear(width, emb), linear_2=nn.Linear(emb, emb)))
        skips, down, up = [width], [], []
        for i, w in enumerate(widths):
            inputs = [skips[-1]] + [w] * (blocks - 1)
            down.append(Level([(n, w) for n in inputs], attends[i], "down" if i < last else "", emb, *norm))
            skips += [w] * (blocks + (i < last))
        self.mid_block = Middle(widths[-1], emb, *norm)
        before = widths[-1]
        for i in reversed(range(len(widths))):
            pairs = []
            for _ in range(blocks + 1):
                pairs.append((before + skips.pop(), widths[i]))
                before = widths[i]
            up.append(Level(pairs, attends[i], "up" if i else "", emb, *norm))
        self.down_blocks, self.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
        self.conv_norm_out = nn.GroupNorm(groups, width, norm_eps)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        freqs = torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / (half - 1)))
        angles = t[:, None] * freqs
        emb = torch.cat([angles.sin(), angles.cos()], 1)
        emb = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](emb)))
        emb = F.silu(emb)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            for i in range(len(level.resnets)):
                h = level.block(i, h, emb)
                skips.append(h)
            if level.sampler:
                h = level.sample(h)
                skips.append(h)
        h = self.mid_block(h, emb)
        for level in self.up_blocks:
            for i in range(len(level.resnets)):
                h = level.block(i, torch.cat([h, skips.pop()], 1), emb)
            if level.sampler:
                h = level.sample(h)
        return self.conv_out(F.silu(self.conv_norm_out(h))).float()
