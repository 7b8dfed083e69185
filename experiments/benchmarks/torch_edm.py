"""DDPM++ of Song et al. 2021 as Karras et al. 2022 trained it, in PyTorch: the twin of a case of `nets_vs_torch.py`.

Parameters carry the names of EDM's state dicts, so that `jaxgen.pretrained.edm.to_edm` fills it. As there, means and
nearest doubling are depthwise convolutions with a filter; attention is torch's fused kernel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, 1e-6)


class Conv(nn.Module):
    """Convolution of stride 1, after resampling by a filter of 2 x 2 equal taps."""

    def __init__(self, inputs: int, outputs: int, size: int, way: str = "same"):
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.empty(outputs))
        if way != "same":
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.way != "same":
            f = self.resample_filter.to(x.dtype).tile(x.shape[1], 1, 1, 1)
            if self.way == "down":
                x = F.conv2d(x, f, stride=2, groups=x.shape[1])
            else:
                x = F.conv_transpose2d(x, 4 * f, stride=2, groups=x.shape[1])
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class Block(nn.Module):
    """norm, silu, conv, + embedding, norm, silu, conv, + shortcut over sqrt(2), attention likewise."""

    def __init__(self, inputs: int, outputs: int, emb: int, way: str = "same", attend: bool = False):
        super().__init__()
        self.norm0, self.conv0 = norm(inputs), Conv(inputs, outputs, 3, way)
        self.affine = nn.Linear(emb, outputs)
        self.norm1, self.conv1 = norm(outputs), Conv(outputs, outputs, 3)
        self.skip = Conv(inputs, outputs, 1, way) if way != "same" or inputs != outputs else nn.Identity()
        self.attend = attend
        if attend:
            self.norm2, self.qkv, self.proj = norm(outputs), Conv(outputs, 3 * outputs, 1), Conv(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        x = (self.skip(x) + self.conv1(F.silu(self.norm1(h)))) * math.sqrt(0.5)
        if not self.attend:
            return x
        # rows of qkv are (channel, which)
        q, k, v = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3)).permute(2, 0, 3, 1)[:, :, None]
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return (x + self.proj(h)) * math.sqrt(0.5)


class TorchDdpmPP(nn.Module):
    """x [B, C, H, W], t [B] -> [B, C, H, W]; the arguments are fields of `jaxgen.nets.edm_unet.DdpmPP`."""

    def __init__(self, shape, width, mults, blocks, attend, dropout):
        super().__init__()
        assert dropout == 0.0, "the comparison needs equal outputs"
        side, _, channels = shape
        emb, widths, last = 4 * width, [width * m for m in mults], len(mults) - 1
        self.width = width
        self.map_layer0, self.map_layer1 = nn.Linear(width, emb), nn.Linear(emb, emb)
        name = lambda i, part: f"{side // 2**i}x{side // 2**i}_{part}"  # noqa: E731
        attends = [side // 2**i in attend for i in range(len(mults))]
        self.enc = nn.ModuleDict({name(0, "conv"): Conv(channels, width, 3)})
        before, skips = width, [width]
        for i, w in enumerate(widths):
            if i:
                self.enc[name(i, "down")] = Block(before, before, emb, "down")
                skips.append(before)
            for j in range(blocks):
                self.enc[name(i, f"block{j}")] = Block(before, w, emb, attend=attends[i])
                before = w
                skips.append(w)
        self.dec = nn.ModuleDict({name(last, "in0"): Block(before, before, emb, attend=True)})
        self.dec[name(last, "in1")] = Block(before, before, emb)
        for i, w in reversed(list(enumerate(widths))):
            if i < last:
                self.dec[name(i, "up")] = Block(before, before, emb, "up")
            for j in range(blocks + 1):
                attended = attends[i] and j == blocks
                self.dec[name(i, f"block{j}")] = Block(before + skips.pop(), w, emb, attend=attended)
                before = w
        self.dec[name(0, "aux_norm")] = norm(before)
        self.dec[name(0, "aux_conv")] = Conv(before, channels, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        angles = t[:, None] * torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / (half - 1)))
        emb = torch.cat([angles.sin(), angles.cos()], 1)
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        skips = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else layer(x, emb)
            skips.append(x)
        for name, layer in self.dec.items():
            if "aux" in name:
                x = F.silu(layer(x)) if name.endswith("norm") else layer(x)
            elif "block" in name:
                x = layer(torch.cat([x, skips.pop()], 1), emb)
            else:
                x = layer(x, emb)
        return x.float()
