"""First stages: autoencoders whose latents other models learn. VQGAN (Esser et al. 2020, arXiv:2012.09841) and the KL-regularised
autoencoder of latent diffusion (Rombach et al. 2021, arXiv:2112.10752).

    L_ae = |x - y| + p perceptual(x, y) + codes or KL + lambda(t) w L_G(y)
    w    = |d(|x - y| + p perceptual) / dK| / (|d L_G / dK| + 1e-4), at most 1e4, K the decoder's last kernel         (eq. 7)
    L_D  = 1/2 (L_real(x) + L_fake(y))

y is the reconstruction. D begins at `disc_start`; lambda is 0 for `disc_warmup` steps more, in which D learns and the picture stays
what it was, and then rises linearly to `disc_weight` in `disc_ramp` steps. (In the papers both begin at once, and the picture falls
apart for a while.) D is updated on the reconstructions of the same step.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from jaxgen.core.lender import Loan, Role
from jaxgen.core.method import Batch, Loss, Metrics, PerExample, value_and_grads
from jaxgen.core.net import Net
from jaxgen.core.ranges import Natural, NonNegative, Share
from jaxgen.core.spec import DataSpec, RunLength
from jaxgen.core.state import Array, NetState, TrainState, Variables, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.gan import GanLoss, Hinge
from jaxgen.methods.gan import HELD, each, judged
from jaxgen.nets.quantize import Ids, Quantizer

LARGEST = 1e4  # of the weight of G's loss
hold = jax.lax.stop_gradient


@runtime_checkable
class Perceives(Protocol):
    """Knows how different two pictures look."""

    def distance(self, weights: Any, x: Array, y: Array) -> Array:
        """Two batches [B, H, W, C] in [-1, 1] -> [B]."""


@dataclass(frozen=True)
class NoPerceptual:
    """Pixels alone."""


@dataclass(frozen=True, kw_only=True)
class FirstStage:
    """`ae` is called as ae(x, step) -> (reconstruction, Quantized), and in parts: quantize, decode; `disc` as in a Gan.

    disc_start, disc_warmup, disc_ramp: steps (50000), or a share of the run (0.5).
    """

    ae: Net
    disc: Net
    spec: DataSpec
    perceptual: Any  # none, lpips or native: said by every config
    perceptual_weight: NonNegative = 1.0
    distance: Literal["l1", "l2"] = "l1"  # of the pixels
    reduce: Literal["mean", "sum"] = "mean"  # over a picture's numbers, for each of which the perceptual one counts
    loss: GanLoss = field(default_factory=Hinge)
    disc_weight: NonNegative = 0.8  # of L_G beside its adaptive weight; 0 leaves the discriminator out
    disc_start: Natural | Share = 0
    disc_warmup: Natural | Share = 0
    disc_ramp: Natural | Share = 0
    steps: RunLength = 0  # of the run

    makes: ClassVar[tuple[str, ...]] = ("image",)
    takes: ClassVar[tuple[str, ...]] = ()
    quantizes: ClassVar[bool]

    def __post_init__(self) -> None:
        if isinstance(self.ae.module.regularizer, Quantizer) != self.quantizes:
            kind, cure = ("is no quantiser", "gradient_quantizer") if self.quantizes else ("quantises", "normal")
            other = "kl_autoencoder" if self.quantizes else "vqgan"
            raise UserError(
                f"method.ae.regularizer {kind}, which is another method ({other}); set method.ae.regularizer={cure}"
            )
        if self.disc_weight and self.steps and (start := self.in_steps(self.disc_start)) >= self.steps:
            raise UserError(
                f"method.disc_start={self.disc_start} is step {start}, and the run ends at {self.steps}; set method.disc_start=0.33"
            )

    def in_steps(self, value: float) -> int:
        """Steps, or a share of the run, in steps."""
        return value if isinstance(value, int) else round(value * self.steps)

    @property
    def seen_from(self) -> int:
        """The step from which D's word counts."""
        return self.in_steps(self.disc_start) + self.in_steps(self.disc_warmup)

    def share(self, step: Array) -> Array:
        """lambda(t)."""
        rise = (step - self.seen_from + 1.0) / max(self.in_steps(self.disc_ramp), 1)
        return self.disc_weight * jnp.clip(rise, 0.0, 1.0)

    def loans(self) -> dict[str, Loan]:
        """The net that compares pictures."""
        if isinstance(self.perceptual, NoPerceptual):
            return {}
        return {"perceptual": Loan(self.perceptual, Role(Perceives, "classifier to compare pictures with"))}

    def target(self, batch: Batch) -> Array:
        """The images, [B, H, W, C] in [-1, 1]."""
        return to_float(batch[self.spec.target])

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        ae_rng, disc_rng = jax.random.split(rng)
        x = self.target(batch)
        nets = {"ae": self.ae.init(ae_rng, x), "disc": self.disc.init(disc_rng, x, {})}
        return TrainState(step=jnp.zeros((), jnp.int32), nets=nets)

    def distances(self, w: Weights, x: Array, y: Array) -> tuple[Array, Metrics]:
        """(how far the reconstruction is from the image [B], what it consists of)."""
        numbers = x[0].size if self.reduce == "sum" else 1
        off = jnp.abs(x - y) if self.distance == "l1" else jnp.square(x - y)
        metrics = {"distance": each(off)}
        if lent := w.frozen.get("perceptual"):
            metrics["perceptual"] = lent.model.distance(lent.weights, x, y)
        whole = metrics["distance"] + self.perceptual_weight * metrics.get("perceptual", 0.0)
        log_var = w.nets["ae"]["params"].get("log_var", 0.0)
        return numbers * (whole * jnp.exp(-log_var) + log_var), metrics

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """One update of the autoencoder, and one of D once it has begun."""
        x, (ae_rng, disc_rng) = self.target(batch), jax.random.split(rng)
        _, found, grads = value_and_grads(lambda w: self.ae_loss(w, x, ae_rng), state.view(), "ae")
        grads = self.ae.lined_up(state.nets["ae"], grads)
        ae = self.ae.update(state.nets["ae"], grads, found.vars, step=state.step)
        metrics = {k: v.mean() for k, v in found.metrics.items()} | {"grad_norm": optax.global_norm(grads)}
        nets = {**state.nets, "ae": ae}
        if self.disc_weight:
            nets["disc"], said = self.update_disc(state, x, found.extra["y"], disc_rng)
            metrics |= said
        return state.replace(step=state.step + 1, nets=nets), metrics

    def ae_loss(self, w: Weights, x: Array, rng: Array) -> Loss:
        """L_ae [B]; `extra` holds the reconstruction.

        The gradients of its parts by the picture are found first, each once, and weighed; the Loss stands for their sum.
        """
        code_rng, net_rng, disc_rng = jax.random.split(rng, 3)
        ae, options = w.nets["ae"], {"train": True, "rngs": {"codebook": code_rng, "dropout": net_rng}}
        q, vars = self.ae.apply(ae, x, method="quantize", step=w.step, **options)
        flat = traverse_util.flatten_dict(ae["params"])

        def decode(kernel: Array) -> Array:
            params = traverse_util.unflatten_dict({**flat, self.ae.module.last_kernel: kernel})
            return self.ae.apply({**ae, "params": params}, q.codes, method="decode", **options)[0]

        y, by_kernel = jax.vjp(decode, flat[self.ae.module.last_kernel])
        seen = hold(y)
        slope = jax.grad(lambda y: self.distances(w, x, y)[0].mean())(seen)
        nll, metrics = self.distances(w, x, seen)  # gradients reach what it has of the net but the picture
        value = nll + q.loss
        metrics = {"ae_loss": value, "nll": nll, **metrics, **q.metrics}
        if self.disc_weight:
            fooled = jax.value_and_grad(lambda y: self._fooled(w, y, disc_rng))
            nothing = lambda _: (jnp.zeros(()), jnp.zeros_like(seen))  # noqa: E731
            gen, gen_slope = jax.lax.cond(w.step >= self.seen_from, fooled, nothing, seen)
            norms = [optax.global_norm(hold(by_kernel(s)[0])) for s in (slope, gen_slope)]
            weight = self.share(w.step) * jnp.clip(norms[0] / (norms[1] + 1e-4), 0.0, LARGEST)
            weight = jnp.where(w.step >= self.seen_from, weight, 0.0)
            slope = slope + weight * gen_slope
            metrics |= {"g_loss": gen, "g_weight": weight}
        stands_for = (y * hold(slope)).sum()  # the picture's slope, carried on to the net
        return Loss(value + stands_for - hold(stands_for), metrics, vars, {"y": seen})

    def _fooled(self, w: Weights, y: Array, rng: Array) -> Array:
        """L_G [] of reconstructions."""
        options = {"train": True, "rngs": {"dropout": rng}, "hold": HELD}
        return self.loss.gen(judged(self.disc.apply(w.nets["disc"], y, {}, **options)[0]).logit, None).mean()

    def update_disc(self, state: TrainState, x: Array, y: Array, rng: Array) -> tuple[NetState, Metrics]:
        """D after an update on images and their reconstructions, from `disc_start` on."""
        w = state.view()

        def loss(w: Weights) -> Loss:
            real_rng, fake_rng = jax.random.split(rng)
            real, vars = self._judged(w.nets["disc"], x, real_rng)
            fake, vars = self._judged({**w.nets["disc"], **vars}, y, fake_rng)
            by_real, by_fake = (each(v) for v in self.loss.parts(real, fake))
            said = {"d_loss_real": by_real, "d_loss_fake": by_fake, "d_real": each(real), "d_fake": each(fake)}
            return Loss(0.5 * (by_real + by_fake), said, vars)

        def update(net: NetState) -> tuple[NetState, Metrics]:
            value, found, grads = value_and_grads(loss, w, "disc")
            grads = self.disc.lined_up(net, grads)
            said = {k: v.mean() for k, v in found.metrics.items()}
            return self.disc.update(net, grads, found.vars, step=state.step), {"d_loss": value, **said}

        names = ("d_loss", "d_loss_real", "d_loss_fake", "d_real", "d_fake")
        rest = lambda net: (net, dict.fromkeys(names, jnp.zeros(())))  # noqa: E731
        return jax.lax.cond(state.step >= self.in_steps(self.disc_start), update, rest, state.nets["disc"])

    def _judged(self, disc: Variables, x: Array, rng: Array) -> tuple[Array, Variables]:
        said, vars = self.disc.apply(disc, x, {}, train=True, rngs={"dropout": rng})
        return judged(said).logit, vars

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Distances and codes of held-out images, and what D says of them and of their reconstructions, [B] each."""
        x = self.target(batch)
        (y, q), _ = self.ae.apply(w.nets["ae"], x)
        nll, metrics = self.distances(w, x, y)
        shown = {"d_real": x, "d_fake": y}
        said = {name: each(judged(self.disc.apply(w.nets["disc"], v, {})[0]).logit) for name, v in shown.items()}
        metrics = {"loss": nll + q.loss, "nll": nll, **metrics, **q.metrics, **(said if self.disc_weight else {})}
        return {k: v for k, v in metrics.items() if v.ndim == 1}

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The images through the regularizer, in [-1, 1]."""
        (y, _), _ = self.ae.apply(w.nets["ae"], self.target(batch))
        return jnp.clip(y, -1.0, 1.0)

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Its reconstruction: what the latents cannot say of a degraded image is lost."""
        return self.reconstruct(w, batch, rng)

    def _run(self, w: Weights, method: str, *args: Any) -> Any:
        return self.ae.apply(w.nets["ae"], *args, method=method)[0]


@dataclass(frozen=True, kw_only=True)
class VqGan(FirstStage):
    """Its latents are codes: int32 [B, h, w], or a pyramid of such maps, coarse first."""

    quantizes: ClassVar[bool] = True

    @property
    def codes(self) -> int:
        """Entries of the codebook."""
        return self.ae.module.regularizer.codes

    def encode(self, w: Weights, x: Array, rng: Array) -> Ids:
        """Codes' indices."""
        return self._run(w, "encode", to_float(x))

    def decode(self, w: Weights, z: Ids) -> Array:
        """Indices -> images [B, H, W, C] in [-1, 1]."""
        return jnp.clip(self._run(w, "decode_ids", z), -1.0, 1.0)

    def vectors(self, w: Weights, ids: Ids) -> Array:
        """Indices [B, h, w] -> codes [B, h, w, D]."""
        return self._run(w, "vectors", ids)

    def nearest(self, w: Weights, z: Array) -> Ids:
        """Vectors [B, h, w, D] -> indices of the codes nearest to them."""
        return self._run(w, "nearest", z)


@dataclass(frozen=True, kw_only=True)
class KlAutoencoder(FirstStage):
    """Its latents are draws of normal posteriors, float32 [B, h, w, z]. They are not N(0, I): `latent_statistics` measures them."""

    quantizes: ClassVar[bool] = False
    reduce: Literal["mean", "sum"] = "sum"
    disc_weight: NonNegative = 0.5

    def moments(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """Mean and log-variance of the posterior of images, [B, h, w, z] each."""
        return self._run(w, "moments", to_float(x))

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """A draw of the posterior."""
        mean, log_var = self.moments(w, x)
        return mean + jnp.exp(0.5 * log_var) * jax.random.normal(rng, mean.shape)

    def decode(self, w: Weights, z: Array) -> Array:
        """Latents -> images [B, H, W, C] in [-1, 1]."""
        return jnp.clip(self._run(w, "decode", z), -1.0, 1.0)
