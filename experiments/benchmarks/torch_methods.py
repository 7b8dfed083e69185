"""Training steps of GANs, VAE and VQ-VAE in PyTorch, NHWC in memory: the twins of the cases of `methods_vs_torch.py`.

A twin is made from jaxgen's own config of the method. Its parts are called as Flax calls them in jaxgen's nets (Conv_0,
Residual_1, ...), so that `exported` fills it without a table of names. What a twin supports is what the cases need.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_first_stage import PatchGan, VqAutoencoder
from torch_flow import Glow, apart, stacked
from torch_pixelcnnpp import PixelCnnPP
from torch_stylegan2 import Modulated, StyleGan2Discriminator, StyleGan2Generator
from torch_tokens import CausalTransformer

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}


def exported(variables: dict) -> dict[str, np.ndarray]:
    """Collections of one of jaxgen's nets -> a state dict: convolutions [O, C, kh, kw], transposed ones [C, O, kh, kw]."""

    def leaves(tree: dict, path: tuple[str, ...]):
        for name, value in tree.items():
            yield from leaves(value, (*path, name)) if isinstance(value, dict) else [((*path, name), np.asarray(value))]

    found = {}
    for (_, *parts, leaf), value in leaves(variables, ()):
        parts = [
            part for part in parts if not part.startswith("BatchNorm") and part != "kernel"
        ]  # names without a layer
        if leaf == "kernel" and value.ndim == 4:
            value = (
                value.transpose(2, 3, 0, 1) if parts[-1].startswith("ConvTranspose") else value.transpose(3, 2, 0, 1)
            )
        value = value.T if leaf == "kernel" and value.ndim == 3 else value  # taps
        found[".".join([*parts, LEAVES.get(leaf, leaf)])] = value.T if leaf == "kernel" and value.ndim == 2 else value
    return found


def levels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in [-1, 1], NHWC in memory."""
    return (images.float() / 127.5 - 1.0).permute(0, 3, 1, 2)


class Draws:
    """Random numbers: those given, in order, and then torch's own."""

    def __init__(self, given: Sequence[Tensor] = ()):
        self.given = list(given)

    def next(self, draw: Callable[[], Tensor]) -> Tensor:
        return self.given.pop(0) if self.given else draw()


# ----------------------------------------------------------------------------------------------------------------------
# Players of the GAN


class DcganGenerator(nn.Module):
    """z [B, Z] -> [B, C, H, W]."""

    def __init__(self, shape, z_dim, width, base=4, norm="batch"):
        super().__init__()
        assert norm == "batch"
        self.base, self.doublings = base, int(math.log2(shape[0] // base))
        wide = width << (self.doublings - 1)
        self.Dense_0, self.Norm_0 = nn.Linear(z_dim, base * base * wide, bias=False), nn.BatchNorm2d(wide)
        for i in range(1, self.doublings):
            layer = nn.ConvTranspose2d(wide >> (i - 1), wide >> i, 4, 2, 1, bias=False)
            self.add_module(f"ConvTranspose_{i - 1}", layer)
            self.add_module(f"Norm_{i}", nn.BatchNorm2d(wide >> i))
        self.add_module(f"ConvTranspose_{self.doublings - 1}", nn.ConvTranspose2d(width, shape[-1], 4, 2, 1))

    def forward(self, z: Tensor) -> Tensor:
        x = self.Dense_0(z).unflatten(1, (self.base, self.base, -1)).permute(0, 3, 1, 2)
        for i in range(self.doublings):
            x = F.relu(self.get_submodule(f"Norm_{i}")(x), inplace=True)
            x = self.get_submodule(f"ConvTranspose_{i}")(x)
        return torch.tanh(x)


class DcganDiscriminator(nn.Module):
    """[B, C, H, W] -> logits [B]."""

    def __init__(self, shape, width, base=4, norm="batch"):
        super().__init__()
        self.halvings, self.norm = int(math.log2(shape[0] // base)), norm == "batch"
        before = shape[-1]
        for i in range(self.halvings):
            wide = width << i
            self.add_module(f"Conv_{i}", nn.Conv2d(before, wide, 4, 2, 1, bias=i == 0 or not self.norm))
            if i and self.norm:
                self.add_module(f"Norm_{i - 1}", nn.BatchNorm2d(wide))
            before = wide
        self.Dense_0 = nn.Linear(base * base * before, 1)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.halvings):
            x = self.get_submodule(f"Conv_{i}")(x)
            x = self.get_submodule(f"Norm_{i - 1}")(x) if i and self.norm else x
            x = F.leaky_relu(x, 0.2, inplace=True)
        return self.Dense_0(x.permute(0, 2, 3, 1).flatten(1))[:, 0]


class Spectral(nn.Module):
    """A layer's weight over its largest singular value, its vectors u and v; one power iteration where `moving`."""

    moving = False

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("u", torch.ones(len(self.weight)))
        self.register_buffer("v", torch.ones(self.weight[0].numel()))

    def normalised(self) -> Tensor:
        """The weight."""
        w = (self.weight.permute(0, 2, 3, 1) if self.weight.ndim == 4 else self.weight).flatten(1)
        if self.moving:
            with torch.no_grad():
                self.v = F.normalize(self.u @ w, dim=0)
                self.u = F.normalize(w @ self.v, dim=0)
        return self.weight / torch.dot(self.u, w @ self.v)


class SpectralConv(Spectral, nn.Conv2d):
    """Of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralDense(Spectral, nn.Linear):
    """Of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class ResnetGenerator(nn.Module):
    """z [B, Z] -> [B, C, H, W]; the shortcut is convolved before it is doubled, as in jaxgen."""

    def __init__(self, shape, z_dim, width, base=4, norm="batch"):
        super().__init__()
        assert norm == "batch"
        self.base, self.doublings = base, int(math.log2(shape[0] // base))
        self.Dense_0 = nn.Linear(z_dim, base * base * width)
        for i in range(self.doublings):
            self.add_module(f"Norm_{2 * i}", nn.BatchNorm2d(width))
            self.add_module(f"UpConv_{i}", nn.Conv2d(width, width, 3, padding=1, bias=False))
            self.add_module(f"Norm_{2 * i + 1}", nn.BatchNorm2d(width))
            self.add_module(f"Conv_{2 * i}", nn.Conv2d(width, width, 3, padding=1))
            self.add_module(f"Conv_{2 * i + 1}", nn.Conv2d(width, width, 1))
        self.add_module(f"Norm_{2 * self.doublings}", nn.BatchNorm2d(width))
        self.add_module(f"Conv_{2 * self.doublings}", nn.Conv2d(width, shape[-1], 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        part = self.get_submodule
        x = self.Dense_0(z).unflatten(1, (self.base, self.base, -1)).permute(0, 3, 1, 2)
        for i in range(self.doublings):
            h = F.interpolate(F.relu(part(f"Norm_{2 * i}")(x), inplace=True), scale_factor=2.0)
            h = F.relu(part(f"Norm_{2 * i + 1}")(part(f"UpConv_{i}")(h)), inplace=True)
            x = part(f"Conv_{2 * i}")(h) + F.interpolate(part(f"Conv_{2 * i + 1}")(x), scale_factor=2.0)
        x = F.relu(part(f"Norm_{2 * self.doublings}")(x), inplace=True)
        return torch.tanh(part(f"Conv_{2 * self.doublings}")(x))


class ResnetDiscriminator(nn.Module):
    """[B, C, H, W] -> logits [B]."""

    def __init__(self, shape, width, downs=2, plain=2, norm="none", spectral=False, pool="mean"):
        super().__init__()
        assert norm == "none"
        self.downs, self.blocks, self.pool, layers = downs, downs + plain, pool, []
        conv, dense = (SpectralConv, SpectralDense) if spectral else (nn.Conv2d, nn.Linear)
        for i in range(self.blocks):
            layers += [conv(width if i else shape[-1], width, 3, padding=1), conv(width, width, 3, padding=1)]
            layers += [conv(width if i else shape[-1], width, 1)] if i < downs else []
        for i, layer in enumerate(layers):
            self.add_module(f"Conv_{i}", layer)
        self.Dense_0 = dense(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        layers = iter([self.get_submodule(f"Conv_{i}") for i in range(2 * self.blocks + self.downs)])
        for i in range(self.blocks):
            h = next(layers)(F.relu(x) if i else x)
            h = next(layers)(F.relu(h, inplace=True))
            if i < self.downs:
                h, x = F.avg_pool2d(h, 2), next(layers)(F.avg_pool2d(x, 2))
            x = x + h
        x = F.relu(x)
        return self.Dense_0(x.sum((2, 3)) if self.pool == "sum" else x.mean((2, 3)))[:, 0]


# ----------------------------------------------------------------------------------------------------------------------
# Autoencoders


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.Conv_1 = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.Conv_1(F.relu(self.Conv_0(F.relu(x)), inplace=True))


class ConvEncoder(nn.Module):
    """[B, C, H, W] -> [B, width, H / 2^downs, W / 2^downs]."""

    def __init__(self, shape, width, hidden, downs, blocks):
        super().__init__()
        self.downs, self.blocks = downs, blocks
        for i in range(downs):
            self.add_module(f"Conv_{i}", nn.Conv2d(width if i else shape[-1], width, 4, 2, 1))
        for i in range(blocks):
            self.add_module(f"Residual_{i}", Residual(width, hidden))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.downs):
            x = self.get_submodule(f"Conv_{i}")(F.relu(x, inplace=True) if i else x)
        for i in range(self.blocks):
            x = self.get_submodule(f"Residual_{i}")(x)
        return F.relu(x)


class ConvDecoder(nn.Module):
    """z [B, Z, h, w] or [B, Z] -> [B, channels, H, W]."""

    def __init__(self, shape, channels, latent, vector, width, hidden, downs, blocks):
        super().__init__()
        self.downs, self.blocks, self.side = downs, blocks, shape[0] >> downs
        if vector:
            self.Dense_0 = nn.Linear(latent, self.side**2 * width)
        else:
            self.Conv_0 = nn.Conv2d(latent, width, 3, padding=1)
        for i in range(blocks):
            self.add_module(f"Residual_{i}", Residual(width, hidden))
        for i in range(downs):
            self.add_module(
                f"ConvTranspose_{i}", nn.ConvTranspose2d(width, width if i < downs - 1 else channels, 4, 2, 1)
            )

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z)
        for i in range(self.blocks):
            x = self.get_submodule(f"Residual_{i}")(x)
        for i in range(self.downs):
            x = self.get_submodule(f"ConvTranspose_{i}")(F.relu(x))
        return x

    def first(self, z: Tensor) -> Tensor:
        """[B, width, h, w]."""
        if z.ndim == 4:
            return self.Conv_0(z)
        return self.Dense_0(z).unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)


class VaeNet(nn.Module):
    """q(z | x) and p(x | z)."""

    def __init__(self, shape, channels, latent, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = (
            ConvEncoder(shape, **encoder),
            ConvDecoder(shape, channels, latent, True, **decoder),
        )
        self.posterior = nn.Linear((shape[0] >> encoder["downs"]) ** 2 * encoder["width"], 2 * latent)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        return self.posterior(self.encoder(x).permute(0, 2, 3, 1).flatten(1)).chunk(2, 1)


class EmaQuantizer(nn.Module):
    """A codebook that follows the encodings; codes that nobody chooses start again from one of them."""

    def __init__(self, codes, dim, decay=0.99, eps=1e-5, dead=0.03):
        super().__init__()
        self.decay, self.eps, self.dead = decay, eps, dead
        for name, shape in (("embed", (codes, dim)), ("count", (codes,)), ("sum", (codes, dim))):
            self.register_buffer(name, torch.ones(shape))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [B, h, w, D] -> (codes with z's gradient, commitment [], perplexity [])."""
        with torch.no_grad():
            flat = z.flatten(0, 2)
            distance = flat.square().sum(1, keepdim=True) - 2.0 * flat @ self.embed.T + self.embed.square().sum(1)
            ids = distance.argmin(1)
            codes = self.embed[ids].view_as(z)
            share = torch.bincount(ids, minlength=len(self.embed)) / len(ids)
            perplexity = torch.exp(-(share * share.clamp(min=1e-10).log()).sum())
        return z + (codes - z).detach(), F.mse_loss(z, codes), perplexity, (flat, ids)

    @torch.no_grad()
    def follow(self, flat: Tensor, ids: Tensor) -> None:
        """One step of the averages."""
        num = len(self.embed)
        chosen = F.one_hot(ids, num).float()
        self.count.lerp_(chosen.sum(0), 1.0 - self.decay)
        self.sum.lerp_(chosen.T @ flat, 1.0 - self.decay)
        mass = self.count.sum()
        self.embed.copy_(self.sum / ((self.count + self.eps) / (mass + num * self.eps) * mass)[:, None])
        share = len(flat) / num
        dead = self.count < self.dead * share
        if dead.any():
            rows = flat[torch.randperm(len(flat), device=flat.device)[:num]]
            self.embed[dead], self.count[dead], self.sum[dead] = rows[dead], share, share * rows[dead]


class VqVaeNet(nn.Module):
    """Encoder, codebook, decoder."""

    def __init__(self, shape, channels, quantizer, encoder, decoder):
        super().__init__()
        dim = quantizer["dim"]
        self.encoder, self.decoder = ConvEncoder(shape, **encoder), ConvDecoder(shape, channels, dim, False, **decoder)
        self.project, self.quantizer = nn.Linear(encoder["width"], dim), EmaQuantizer(**quantizer)


# ----------------------------------------------------------------------------------------------------------------------
# Methods: `step(images uint8 [B, H, W, C], draws)` is one training step and returns its losses.


def adam(net: nn.Module, lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> torch.optim.Adam:
    """torch's fused Adam."""
    return torch.optim.Adam(net.parameters(), lr, (b1, b2), eps, fused=True)


def update(optimizer: torch.optim.Adam, loss: Tensor, clip: float = 0.0) -> None:
    """Gradients and one update."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    params = optimizer.param_groups[0]["params"]
    for p in params:  # what a penalty does not reach
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    if clip:
        nn.utils.clip_grad_norm_(params, clip)
    optimizer.step()


class Twin:
    """A method: its nets by name and their optimizers.

    random: whether nets draw what `Draws` does not hand on. grouped: whether modulated convolutions have kernels for each image.
    """

    random, grouped, modulates = True, False, False

    def __init__(self, nets: dict[str, nn.Module], optimizers: dict[str, dict], device: str):
        self.device = device
        self.nets = {k: net.to(device=device, memory_format=torch.channels_last) for k, net in nets.items()}
        self.optimizers = {k: adam(net, **optimizers[k]) for k, net in self.nets.items()}

    @property
    def doubly(self) -> bool:
        """Whether it takes gradients of gradients, which torch.compile does not."""
        return False

    def compile(self) -> None:
        """Its nets, in place."""
        for net in self.nets.values():
            net.compile()

    def load(self, weights: dict[str, dict[str, np.ndarray]]) -> None:
        """jaxgen's, `exported`, by net."""
        for name, net in self.nets.items():
            missing, _ = net.load_state_dict({k: torch.tensor(v) for k, v in weights[name].items()}, strict=False)
            assert all(k.endswith("num_batches_tracked") for k in missing), missing

    def moments(self) -> dict[str, dict[str, np.ndarray]]:
        """Adam's, as jaxgen names them, by net and parameter."""
        states = {k: self.optimizers[k].state for k in self.nets}
        return {
            f"{moment} {k}": {name: states[k][p][theirs].cpu().numpy() for name, p in net.named_parameters()}
            for moment, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
            for k, net in self.nets.items()
        }


PLAYERS = {
    c.__name__: c
    for c in (
        DcganGenerator, DcganDiscriminator, ResnetGenerator, ResnetDiscriminator, StyleGan2Generator, StyleGan2Discriminator
    )
}  # fmt: skip
PRIORS = {"normal": torch.randn, "uniform": lambda *shape, device: 2.0 * torch.rand(*shape, device=device) - 1.0}
GAMES = {  # D's loss of logits (real, fake), and G's
    "NonSaturating": (lambda r, f: (F.softplus(-r) + F.softplus(f)).mean(), lambda f: F.softplus(-f).mean()),
    "Wasserstein": (lambda r, f: (f - r).mean(), lambda f: -f.mean()),
    "Hinge": (lambda r, f: (F.relu(1.0 - r) + F.relu(1.0 + f)).mean(), lambda f: -f.mean()),
}


class TorchGan(Twin):
    """n_critic updates of D and one of G. `penalties`: "gradient_penalty", "r1" and "path_length", the last two apart."""

    def __init__(self, shape, gen, disc, optimizers, game, penalties, order, n_critic, gen_batch, z_dim, prior, device):
        players = {"gen": (gen, dict(z_dim=z_dim)), "disc": (disc, {})}
        nets = {k: PLAYERS[kind](shape=shape, **more, **sizes) for k, ((kind, sizes), more) in players.items()}
        for name, player in (("r1", "disc"), ("path_length", "gen")):
            if name in penalties:  # both updates share the moments
                share = penalties[name]["every"] / (penalties[name]["every"] + 1)
                adam = optimizers[player]
                optimizers[player] = adam | dict(lr=share * adam["lr"], b1=adam["b1"] ** share, b2=adam["b2"] ** share)
        super().__init__(nets, optimizers, device)
        self.game, self.penalties, self.order, self.n_critic = GAMES[game], penalties, order, n_critic
        self.gen_batch = gen_batch
        self.z_dim, self.prior, self.mean_length, self.steps = z_dim, PRIORS[prior], torch.zeros((), device=device), 0
        self.spectral = [m for m in nets["disc"].modules() if isinstance(m, Spectral)]
        self.modulated = [m for m in nets["gen"].modules() if isinstance(m, Modulated)]
        self.modulates = bool(self.modulated)

    @property
    def doubly(self) -> bool:
        return bool(self.penalties)

    def told(self) -> nn.Module:
        """G in the form that is asked for."""
        for layer in self.modulated:
            layer.grouped, layer.random = self.grouped, self.random
        return self.nets["gen"]

    def latents(self, num: int, draws: Draws) -> Tensor:
        return draws.next(lambda: self.prior(num, self.z_dim, device=self.device))

    def generate(self, z: Tensor) -> Tensor:
        """[B, H, W, C], as one samples."""
        gen = self.told().eval()
        with torch.inference_mode():
            images = gen(z).permute(0, 2, 3, 1)
        gen.train()
        return images

    def due(self, name: str) -> bool:
        """Whether a lazy penalty has its turn."""
        return name in self.penalties and self.steps % self.penalties[name]["every"] == 0

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        updates, found = [self.update_disc, self.update_gen], {}
        for update in updates if self.order == "disc_first" else updates[::-1]:
            found |= update(images, draws)
        self.steps += 1
        return found

    def update_disc(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        gen, disc, losses = self.told(), self.nets["disc"], []
        for i in range(self.n_critic):
            real = levels(images[i :: self.n_critic])
            with torch.no_grad():
                fake = gen(self.latents(len(real), draws))
            by_real = self.moved(disc, real)
            loss = self.game[0](by_real, disc(fake))
            if penalty := self.penalties.get("gradient_penalty"):
                mix = draws.next(lambda real=real: torch.rand_like(real[:, :1, :1, :1]))
                between = (mix * real + (1.0 - mix) * fake).requires_grad_()
                (slope,) = torch.autograd.grad(disc(between).sum(), between, create_graph=True)
                norm = torch.sqrt(slope.square().sum((1, 2, 3)) + 1e-12)
                loss = loss + penalty["strength"] * (norm - 1.0).square().mean()
            update(self.optimizers["disc"], loss)
            losses.append(loss.detach())
        found = {"d_loss": torch.stack(losses).mean()}
        if self.due("r1"):
            real, penalty = real.requires_grad_(), self.penalties["r1"]
            (slope,) = torch.autograd.grad(disc(real).sum(), real, create_graph=True)
            loss = 0.5 * penalty["strength"] * penalty["every"] * slope.square().sum((1, 2, 3)).mean()
            update(self.optimizers["disc"], loss)
            found["r1"] = loss.detach()
        return found

    def moved(self, disc: nn.Module, real: Tensor) -> Tensor:
        """What D says of real images: spectral norms move here alone."""
        for layer in self.spectral:
            layer.moving = True
        said = disc(real)
        for layer in self.spectral:
            layer.moving = False
        return said

    def update_gen(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        gen, disc, num = self.told(), self.nets["disc"], len(images) // self.n_critic * self.gen_batch
        disc.requires_grad_(False)  # G's step needs the slope of D by images alone
        g_loss = self.game[1](disc(gen(self.latents(num, draws))))
        update(self.optimizers["gen"], g_loss)
        disc.requires_grad_(True)
        found = {"g_loss": g_loss.detach()}
        if self.due("path_length"):
            penalty = self.penalties["path_length"]
            ws = gen.map(self.latents(num, draws)[: num // penalty["shrink"]])
            fake = gen.synthesize(ws)
            y = draws.next(lambda: torch.randn_like(fake) / math.sqrt(fake[0, 0].numel()))
            (slope,) = torch.autograd.grad((fake * y).sum(), ws, create_graph=True)
            lengths = torch.sqrt(slope.square().sum(2).mean(1))
            mean = self.mean_length.lerp(lengths.mean(), penalty["decay"])
            self.mean_length = mean.detach()
            loss = penalty["strength"] * penalty["every"] * (lengths - mean).square().mean()
            update(self.optimizers["gen"], loss)
            found["path_length"] = loss.detach()
        return found


class TorchVae(Twin):
    """Discretised logistic likelihood of 256 levels."""

    def __init__(self, shape, latent, encoder, decoder, optimizers, clip, beta, device):
        super().__init__({"net": VaeNet(shape, 2 * shape[-1], latent, encoder, decoder)}, optimizers, device)
        self.clip, self.beta = clip, beta

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        x, net = levels(images), self.nets["net"]
        mean, log_var = net.encode(x)
        noise = draws.next(lambda: torch.randn_like(mean))
        nll = self.nll(net.decoder(mean + torch.exp(0.5 * log_var) * noise), x)
        kl = (0.5 * (log_var.exp() + mean.square() - 1.0 - log_var)).sum(1)
        loss = (nll + self.beta * kl).mean()
        update(self.optimizers["net"], loss, self.clip)
        return {"loss": loss.detach(), "nll": nll.detach().mean(), "kl": kl.detach().mean()}

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """[B] nats."""
        mean, log_scale = out.chunk(2, 1)
        half, sharp = 1.0 / 255.0, torch.exp(-log_scale.clamp(min=-7.0))
        below, above = F.logsigmoid((x + half - mean) * sharp), F.logsigmoid(-(x - half - mean) * sharp)
        inside = below + above + torch.log(-torch.expm1(-2.0 * half * sharp))
        ends = torch.where(x < 0.0, below, above)
        return -torch.where(x.abs() > 1.0 - half, ends, inside).sum((1, 2, 3))


class TorchFlow(Twin):
    """Glow of uniformly dequantised levels, whose steps jaxgen stacks."""

    def __init__(self, shape, optimizers, levels, depth, width, device):
        super().__init__({"net": Glow(shape, levels, depth, width)}, optimizers, device)

    def load(self, weights: dict[str, dict[str, np.ndarray]]) -> None:
        fixed = [k for k in self.nets["net"].state_dict() if k.endswith((".mask", ".eye"))]
        state = {k: torch.tensor(v) for k, v in apart(weights["net"]).items()}
        missing, _ = self.nets["net"].load_state_dict(state, strict=False)
        assert set(missing) == set(fixed), missing

    def moments(self) -> dict[str, dict[str, np.ndarray]]:
        return {k: stacked(v) for k, v in super().moments().items()}

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        k = images.permute(0, 3, 1, 2).float()
        log_prob, logdet = self.nets["net"]((k + draws.next(lambda: torch.rand_like(k))) / 256.0)
        loss = k[0].numel() * math.log(256.0) - log_prob.mean()
        update(self.optimizers["net"], loss)
        return {"loss": loss.detach(), "logdet": logdet.detach().mean()}


class TorchVqVae(Twin):
    """Gaussian likelihood; the codebook moves by averages."""

    def __init__(self, shape, quantizer, encoder, decoder, optimizers, sigma, beta, device):
        super().__init__({"net": VqVaeNet(shape, shape[-1], quantizer, encoder, decoder)}, optimizers, device)
        self.sigma, self.beta = sigma, beta

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        x, net = levels(images), self.nets["net"]
        z = net.project(net.encoder(x).permute(0, 2, 3, 1))
        codes, commitment, perplexity, chosen = net.quantizer(z)
        out = net.decoder(codes.permute(0, 3, 1, 2))
        nll = 0.5 * F.mse_loss(out, x) / self.sigma**2 + math.log(self.sigma) + 0.5 * math.log(2.0 * math.pi)
        loss = nll + self.beta * commitment
        update(self.optimizers["net"], loss)
        net.quantizer.follow(*chosen)
        with torch.no_grad():
            mse = F.mse_loss(out.clamp(-1.0, 1.0), x)
        return {
            "loss": loss.detach(),
            "mse": mse,
            "commitment": commitment.detach(),
            "perplexity": perplexity,
        }


class TorchPixelCnnPP(Twin):
    """Mixture of discretised logistics of 256 levels, for RGB."""

    def __init__(self, shape, width, blocks, levels, mixtures, optimizers, device):
        super().__init__({"net": PixelCnnPP(width, blocks, levels, mixtures)}, optimizers, device)
        self.dims = math.prod(shape)

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        x, net = levels(images), self.nets["net"]
        loss = net.nll(net(x), x).mean() / self.dims
        update(self.optimizers["net"], loss)
        return {"loss": loss.detach(), "bits_per_dim": loss.detach() / math.log(2.0)}


class TorchFirstStage(Twin):
    """VQGAN by mean absolute error and a hinge loss, with the adaptive weight: what D says of the picture is found once."""

    def __init__(self, shape, ae, disc, optimizers, disc_weight, device):
        super().__init__({"ae": VqAutoencoder(shape, **ae), "disc": PatchGan(shape, **disc)}, optimizers, device)
        self.disc_weight = disc_weight

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        x, (ae, disc) = levels(images), self.nets.values()
        y, codes = ae(x)
        seen, kernel = y.detach().requires_grad_(), ae.decoder.conv_out.weight
        nll = F.l1_loss(seen, x)
        (slope,) = torch.autograd.grad(nll, seen)
        disc.requires_grad_(False)
        g_loss = -disc(seen).mean()
        (gen_slope,) = torch.autograd.grad(g_loss, seen)
        disc.requires_grad_(True)
        by_kernel = [torch.autograd.grad(y, kernel, s, retain_graph=True)[0].norm() for s in (slope, gen_slope)]
        weight = self.disc_weight * (by_kernel[0] / (by_kernel[1] + 1e-4)).clamp(0.0, 1e4)
        update(self.optimizers["ae"], codes + (y * (slope + weight * gen_slope)).sum())
        y = y.detach()
        d_loss = 0.5 * (F.relu(1.0 - disc(x)).mean() + F.relu(1.0 + disc(y)).mean())
        update(self.optimizers["disc"], d_loss)
        found = dict(ae_loss=nll + codes, g_loss=g_loss, g_weight=weight, d_loss=d_loss)
        return {k: v.detach() for k, v in found.items()}


class TorchCausalTokens(Twin):
    """A causal transformer over pixels of 256 levels, in reading order."""

    def __init__(self, shape, optimizers, depth, width, heads, hidden, device):
        self.shape = shape
        super().__init__(
            {"net": CausalTransformer(math.prod(shape), 256, depth, width, heads, hidden)}, optimizers, device
        )

    def latents(self, num: int, draws: Draws) -> Tensor:
        """Gumbel noise [N, B, 256]."""
        return -torch.empty(math.prod(self.shape), num, 256, device=self.device).exponential_().log()

    def generate(self, z: Tensor) -> Tensor:
        """[B, H, W, C] in [-1, 1]."""
        with torch.inference_mode():
            return self.nets["net"].draw(z).view(-1, *self.shape) / 127.5 - 1.0

    def step(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        ids = images.flatten(1).long()
        loss = F.cross_entropy(self.nets["net"](ids).flatten(0, 1), ids.flatten())
        update(self.optimizers["net"], loss)
        return {"loss": loss.detach()}
