"""The transformer of Peebles & Xie 2023 in PyTorch: the twin of jaxgen's DiT in `nets_vs_torch.py`.

Parameters carry the names of the authors' state dicts, so that `jaxgen.pretrained.dit.to_author` fills it; attention is
torch's fused kernel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxgen.nets.dit import position_waves


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Self-attention of x [B, N, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, D / heads]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP under adaLN-Zero."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = round(mlp_ratio * width)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width)))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, 1)
        x = x + gate1[:, None] * self.attn(modulated(x, shift1, scale1))
        h = self.mlp["fc1"](modulated(x, shift2, scale2))
        return x + gate2[:, None] * self.mlp["fc2"](F.gelu(h, approximate="tanh"))


class Last(nn.Module):
    """Tokens -> patches."""

    def __init__(self, width: int, features: int):
        super().__init__()
        self.linear = nn.Linear(width, features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(modulated(x, *self.adaLN_modulation(c).chunk(2, 1)))


class TorchDiT(nn.Module):
    """x [B, C, H, W], t [B] -> [B, C, H, W]; the arguments are fields of `jaxgen.nets.dit.DiT` without labels."""

    def __init__(self, shape, patch, depth, width, heads, mlp_ratio=4.0):
        super().__init__()
        side, _, channels = shape
        self.patch, self.rows = patch, side // patch
        self.x_embedder = nn.ModuleDict(dict(proj=nn.Conv2d(channels, width, patch, patch)))
        layers = (nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = nn.ModuleDict(dict(mlp=nn.Sequential(*layers)))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = Last(width, patch**2 * channels)
        places = torch.tensor(position_waves(self.rows, self.rows, width))
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(torch.arange(128, device=t.device) * (-math.log(10_000) / 128))
        c = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], 1))
        h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, c)
        h = self.final_layer(h, c).unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.rows, self.rows))
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).float()
