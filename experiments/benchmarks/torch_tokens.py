"""A causal transformer over tokens in PyTorch, and drawing with a cache: the twin of jaxgen's, whose names its parts have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Attention by torch's fused kernel, and an MLP: x [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp0, self.mlp1 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, cache: Tensor | None = None, place: int = 0) -> Tensor:
        """cache [2, B, heads, N, D / heads]: x is the token at `place`, whose keys and values are written there."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is None:
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            cache[0, :, :, place], cache[1, :, :, place] = k[:, :, 0], v[:, :, 0]
            h = F.scaled_dot_product_attention(q, *cache[:, :, :, : place + 1])
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.mlp1(F.gelu(self.mlp0(self.norm2(x))))


class Start(nn.Module):
    """The first token."""

    def __init__(self, width: int):
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))


class CausalTransformer(nn.Module):
    """ids [B, N] -> logits [B, N, vocabulary] of each of them."""

    def __init__(self, places: int, vocabulary: int, depth: int, width: int, heads: int, hidden: int):
        super().__init__()
        self.places, self.depth = places, depth
        self.start, self.table = Start(width), nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(places, width))
        for i in range(depth):
            self.add_module(f"block{i}", Block(width, heads, hidden))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def blocks(self) -> list[Block]:
        """In their order."""
        return [self.get_submodule(f"block{i}") for i in range(self.depth)]

    def forward(self, ids: Tensor) -> Tensor:
        first = self.start.token.expand(len(ids), 1, -1)
        x = torch.cat([first, self.table(ids[:, :-1])], 1) + self.position
        for block in self.blocks():
            x = block(x)
        return self.head(self.last(x))

    def draw(self, noise: Tensor) -> Tensor:
        """Gumbel noise [N, B, vocabulary] -> ids [B, N], one after the other, with a cache of keys and values."""
        blocks, num = self.blocks(), noise.shape[1]
        heads, width = blocks[0].heads, self.position.shape[1]
        caches = torch.empty(self.depth, 2, num, heads, self.places, width // heads, device=noise.device)
        before, ids = self.start.token.expand(num, -1), []
        for place in range(self.places):
            x = (before + self.position[place])[:, None]
            for block, cache in zip(blocks, caches, strict=True):
                x = block(x, cache, place)
            ids.append((self.head(self.last(x[:, 0])) + noise[place]).argmax(-1))
            before = self.table(ids[-1])
        return torch.stack(ids, 1)
