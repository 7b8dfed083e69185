"""The Inception-v3 of FID in PyTorch, layer by layer as pytorch-fid has it: convolution, batch normalisation, ReLU apart."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(self, channels: int, features: int, size: int | tuple[int, int], stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(features, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


ROW, COLUMN = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))


class Block(nn.Module):
    """Chains of convolutions by name, and what is done with their outputs."""

    def __init__(self, channels: int, **chains: tuple):
        super().__init__()
        for name, spec in chains.items():
            inputs, features, *rest = spec
            shape = rest[0] if rest and isinstance(rest[0], tuple) else rest or (1,)  # ROW and COLUMN are one tuple
            setattr(self, name, Conv(channels if inputs is None else inputs, features, *shape))

    def run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def average(self, x: Tensor) -> Tensor:
        return self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


class A(Block):
    def __init__(self, channels: int, pool: int):
        super().__init__(
            channels,
            branch1x1=(None, 64),
            branch5x5_1=(None, 48),
            branch5x5_2=(48, 64, 5, 1, 2),
            branch3x3dbl_1=(None, 64),
            branch3x3dbl_2=(64, 96, 3, 1, 1),
            branch3x3dbl_3=(96, 96, 3, 1, 1),
            branch_pool=(None, pool),
        )

    def forward(self, x: Tensor) -> Tensor:
        five = self.run(x, "branch5x5_1", "branch5x5_2")
        three = self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch1x1(x), five, three, self.average(x)], 1)


class B(Block):
    def __init__(self, channels: int):
        super().__init__(
            channels,
            branch3x3=(None, 384, 3, 2),
            branch3x3dbl_1=(None, 64),
            branch3x3dbl_2=(64, 96, 3, 1, 1),
            branch3x3dbl_3=(96, 96, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        twice = self.run(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, 2)], 1)


class C(Block):
    def __init__(self, n: int):
        super().__init__(
            768,
            branch1x1=(None, 192),
            branch7x7_1=(None, n),
            branch7x7_2=(n, n, ROW),
            branch7x7_3=(n, 192, COLUMN),
            branch7x7dbl_1=(None, n),
            branch7x7dbl_2=(n, n, COLUMN),
            branch7x7dbl_3=(n, n, ROW),
            branch7x7dbl_4=(n, n, COLUMN),
            branch7x7dbl_5=(n, 192, ROW),
            branch_pool=(None, 192),
        )

    def forward(self, x: Tensor) -> Tensor:
        seven = self.run(x, *(f"branch7x7_{i}" for i in range(1, 4)))
        twice = self.run(x, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
        return torch.cat([self.branch1x1(x), seven, twice, self.average(x)], 1)


class D(Block):
    def __init__(self):
        super().__init__(
            768,
            branch3x3_1=(None, 192),
            branch3x3_2=(192, 320, 3, 2),
            branch7x7x3_1=(None, 192),
            branch7x7x3_2=(192, 192, ROW),
            branch7x7x3_3=(192, 192, COLUMN),
            branch7x7x3_4=(192, 192, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        seven = self.run(x, *(f"branch7x7x3_{i}" for i in range(1, 5)))
        return torch.cat([self.run(x, "branch3x3_1", "branch3x3_2"), seven, F.max_pool2d(x, 3, 2)], 1)


class E(Block):
    def __init__(self, channels: int, maximum: bool):
        row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        super().__init__(
            channels,
            branch1x1=(None, 320),
            branch3x3_1=(None, 384),
            branch3x3_2a=(384, 384, row),
            branch3x3_2b=(384, 384, column),
            branch3x3dbl_1=(None, 448),
            branch3x3dbl_2=(448, 384, 3, 1, 1),
            branch3x3dbl_3a=(384, 384, row),
            branch3x3dbl_3b=(384, 384, column),
            branch_pool=(None, 192),
        )
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        three, twice = self.branch3x3_1(x), self.run(x, "branch3x3dbl_1", "branch3x3dbl_2")
        ends = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        ends += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        pool = self.branch_pool(F.max_pool2d(x, 3, 1, 1)) if self.maximum else self.average(x)
        return torch.cat([self.branch1x1(x), *ends, pool], 1)


class TorchInception(nn.Module):
    """Images [B, 3, 299, 299] in [-1, 1] -> pool3 [B, 2048]."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(128), C(160), C(160), C(192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(), E(1280, False), E(2048, True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for block in ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]:
            x = getattr(self, f"Mixed_{block}")(x)
        return x.mean((2, 3))
