"""VQGAN's nets in PyTorch, NHWC in memory: the twins of jaxgen's ldm_autoencoder and patchgan, whose names their parts have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resnet(nn.Module):
    """norm, silu, conv, norm, silu, conv, + shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm0, self.norm1 = nn.GroupNorm(groups, inputs, 1e-6), nn.GroupNorm(groups, outputs, 1e-6)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        return self.shortcut(x) + self.conv1(F.silu(self.norm1(h)))


class Attention(nn.Module):
    """One head over all places, by torch's fused kernel."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.qkv(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))  # [B, N, 3 C]
        q, k, v = (part[:, None] for part in h.chunk(3, -1))
        h = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Trunk(nn.Module):
    """What encoder and decoder share: their layers in turn."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def middle(self, channels: int) -> None:
        """Block, attention, block."""
        self.add_module("mid_block0", Resnet(channels, channels, self.groups))
        self.add_module("mid_attend", Attention(channels, self.groups))
        self.add_module("mid_block1", Resnet(channels, channels, self.groups))

    def end(self, channels: int, features: int) -> None:
        """Norm, SiLU, convolution."""
        self.add_module("norm_out", nn.GroupNorm(self.groups, channels, 1e-6))
        self.add_module("silu", nn.SiLU())
        self.add_module("conv_out", nn.Conv2d(channels, features, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Encoder(Trunk):
    """[B, C, H, W] -> [B, z, H / f, W / f]."""

    def __init__(self, channels: int, widths: list[int], blocks: int, groups: int, z: int):
        super().__init__(groups)
        self.add_module("conv_in", nn.Conv2d(channels, widths[0], 3, padding=1))
        before = widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                self.add_module(f"down{i}_block{j}", Resnet(before, width, groups))
                before = width
            if i < len(widths) - 1:
                self.add_module(f"down{i}_pad", nn.ZeroPad2d((0, 1, 0, 1)))
                self.add_module(f"down{i}_sample", nn.Conv2d(width, width, 3, 2))
        self.middle(before)
        self.end(before, z)


class Decoder(Trunk):
    """[B, z, h, w] -> [B, C, f h, f w]."""

    def __init__(self, channels: int, widths: list[int], blocks: int, groups: int, z: int):
        super().__init__(groups)
        before = widths[-1]
        self.add_module("conv_in", nn.Conv2d(z, before, 3, padding=1))
        self.middle(before)
        for i in reversed(range(len(widths))):
            for j in range(blocks + 1):
                self.add_module(f"up{i}_block{j}", Resnet(before, widths[i], groups))
                before = widths[i]
            if i > 0:
                self.add_module(f"up{i}_double", nn.Upsample(scale_factor=2.0))
                self.add_module(f"up{i}_sample", nn.Conv2d(before, before, 3, padding=1))
        self.end(before, channels)


class GradientQuantizer(nn.Module):
    """Codes moved by gradients; what start and restarts moved them by is apart, and added."""

    def __init__(self, codes: int, dim: int, beta: float, dead: float, decay: float):
        super().__init__()
        self.beta, self.dead, self.decay = beta, dead, decay
        self.embed = nn.Parameter(torch.empty(codes, dim))
        self.register_buffer("offset", torch.zeros(codes, dim))
        self.register_buffer("count", torch.ones(codes))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, h, w, D] -> (codes with z's gradient, the loss)."""
        book = self.embed + self.offset
        with torch.no_grad():
            flat = z.flatten(0, 2)
            ids = (flat.square().sum(1, keepdim=True) - 2.0 * flat @ book.T + book.square().sum(1)).argmin(1)
        codes = book[ids].view_as(z)
        loss = F.mse_loss(codes, z.detach()) + self.beta * F.mse_loss(z, codes.detach())
        self.follow(flat, ids)
        return z + (codes - z).detach(), loss

    @torch.no_grad()
    def follow(self, flat: Tensor, ids: Tensor) -> None:
        """Counts move; codes that nobody chooses start again from one of the encodings."""
        num = len(self.embed)
        self.count.lerp_(torch.bincount(ids, minlength=num).float(), 1.0 - self.decay)
        share = len(flat) / num
        dead = self.count < self.dead * share
        if dead.any():
            rows = flat[torch.randperm(len(flat), device=flat.device)[:num]]
            self.offset[dead], self.count[dead] = rows[dead] - self.embed[dead], share


class VqAutoencoder(nn.Module):
    """Encoder, 1x1, codes, 1x1, decoder."""

    def __init__(self, shape, width, mults, blocks, groups, z, regularizer):
        super().__init__()
        widths, dim = [round(width * m) for m in mults], regularizer["dim"]
        self.encoder = Encoder(shape[-1], widths, blocks, groups, z)
        self.decoder = Decoder(shape[-1], widths, blocks, groups, z)
        self.pre, self.post = nn.Conv2d(z, dim, 1), nn.Conv2d(dim, z, 1)
        self.regularizer = GradientQuantizer(**regularizer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the reconstruction, the loss of the codes)."""
        codes, loss = self.regularizer(self.pre(self.encoder(x)).permute(0, 2, 3, 1))
        return self.decoder(self.post(codes.permute(0, 3, 1, 2))), loss


class PatchGan(nn.Module):
    """[B, C, H, W] -> logits [B, h, w]."""

    def __init__(self, shape, width, layers):
        super().__init__()
        self.layers, before = layers, shape[-1]
        for i in range(layers + 1):
            features = width * min(2**i, 8)
            self.add_module(f"Conv_{i}", nn.Conv2d(before, features, 4, 2 if i < layers else 1, 1, bias=i == 0))
            if i:
                self.add_module(f"Norm_{i - 1}", nn.BatchNorm2d(features))
            before = features
        self.add_module(f"Conv_{layers + 1}", nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.layers + 1):
            x = self.get_submodule(f"Conv_{i}")(x)
            x = F.leaky_relu(self.get_submodule(f"Norm_{i - 1}")(x) if i else x, 0.2, inplace=True)
        return self.get_submodule(f"Conv_{self.layers + 1}")(x)[:, 0]
