"""Generative adversarial nets (Goodfellow et al. 2014, arXiv:1406.2661) and the papers that differ from it by a part.

    min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))                                                               (1)

    paper                                    loss             penalty     n_critic  nets
    GAN (Goodfellow et al. 2014)             non_saturating   none        1         mlp_*
    conditional GAN (Mirza & Osindero 2014)  the same, with labels given to both
    DCGAN (Radford et al. 2015)              non_saturating   none        1         dcgan_*
    LSGAN (Mao et al. 2016)                  least_squares    none        1         dcgan_*
    WGAN-GP (Gulrajani et al. 2017)          wasserstein      gradient    5         resnet_*

A step is algorithm 1: `n_critic` updates of D on as many parts of the batch, then one of G. Each player's loss is that of the
game and a penalty of its own; D sees real and generated images through `augment`.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond, prepare
from jaxgen.core.method import Batch, Loss, Metrics, PerExample, value_and_grads
from jaxgen.core.net import Net
from jaxgen.core.parallel import microbatches
from jaxgen.core.ranges import Count
from jaxgen.core.spec import DataSpec
from jaxgen.core.state import Array, TrainState, Variables, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.gan import GanLoss, NonSaturating
from jaxgen.losses.regularize import (
    GanAugment,
    GenPenalty,
    Memory,
    NoAugment,
    NoGenPenalty,
    NoPenalty,
    Penalty,
    lazily,
)

PRIORS = {
    "normal": lambda rng, shape: jax.random.normal(rng, shape),
    "uniform": lambda rng, shape: jax.random.uniform(rng, shape, minval=-1.0, maxval=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Gan:
    """`gen` is called as gen(z [B, z_dim], cond) -> images, `disc` as disc(images, cond) -> logits [B]."""

    gen: Net
    disc: Net
    spec: DataSpec
    loss: GanLoss = field(default_factory=NonSaturating)
    penalty: Penalty = field(default_factory=NoPenalty)  # of D
    gen_penalty: GenPenalty = field(default_factory=NoGenPenalty)  # of G
    augment: GanAugment = field(default_factory=NoAugment)
    n_critic: Count = 1
    z_dim: Count = 100
    prior: str = "normal"

    makes: ClassVar[tuple[str, ...]] = ("image", "latent")

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise UserError(f"method.prior={self.prior!r} is unknown; there are: {', '.join(PRIORS)}")

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions: what both nets take."""
        theirs = getattr(self.disc.module, "takes", ())
        return tuple(kind for kind in getattr(self.gen.module, "takes", ()) if kind in theirs)

    @property
    def batches_per_step(self) -> int:
        """Batches that one step consumes: D sees new images at each of its updates."""
        return self.n_critic

    def latents(self, rng: Array, num: int) -> Array:
        """z ~ p(z), [num, z_dim]."""
        return PRIORS[self.prior](rng, (num, self.z_dim))

    def target(self, batch: Batch) -> Array:
        """The images, [B, H, W, C] in [-1, 1]."""
        return to_float(batch[self.spec.target])

    def conditions(self, batch: Batch) -> Cond:
        """What both players are told; a condition that the batch lacks is left to the nets."""
        return {name: prepare(self.spec, name, batch[name]) for name in self.spec.conditions if name in batch}

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        gen_rng, disc_rng = jax.random.split(rng)
        x, cond = self.target(batch), self.conditions(batch)
        gen = self.gen.init(gen_rng, self.latents(rng, len(x)), cond)
        disc = self.disc.init(disc_rng, x, cond)
        extra = {"augment_p": jnp.float32(self.augment.p)} if self.augment.adapts else {}
        extra |= {"gen_penalty": memory} if (memory := self.gen_penalty.start()) else {}
        return TrainState(step=jnp.zeros((), jnp.int32), nets={"gen": gen, "disc": disc}, extra=extra)

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Algorithm 1: n_critic updates of D, then one of G."""
        disc_rng, gen_rng = jax.random.split(rng)
        parts, keys = microbatches(batch, self.n_critic), jax.random.split(disc_rng, self.n_critic)
        state, found = jax.lax.scan(lambda state, part: self.update_disc(state, *part), state, (parts, keys))
        metrics = {k: v.mean() for k, v in found.items()}
        state, found = self.update_gen(state, jax.tree.map(lambda v: v[-1], parts), gen_rng)
        return state.replace(step=state.step + 1), {**metrics, **found}

    def update_disc(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """D's part of the step, `n_critic` times."""
        value, loss, grads = value_and_grads(lambda w: self.disc_loss(w, batch, rng), state.view(), "disc")
        state = _with_vars(state, loss)
        disc = self.disc.update(state.nets["disc"], grads, step=state.step, updates=self.n_critic)
        return state.replace(nets={**state.nets, "disc": disc}), {"d_loss": value, **_means(loss)}

    def update_gen(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """G's part of the step."""
        value, loss, grads = value_and_grads(lambda w: self.gen_loss(w, batch, rng), state.view(), "gen")
        state = _with_vars(state, loss)
        gen = self.gen.update(state.nets["gen"], grads, step=state.step)
        return state.replace(nets={**state.nets, "gen": gen}), {"g_loss": value, **_means(loss)}

    def disc_loss(self, w: Weights, batch: Batch, rng: Array) -> Loss:
        """D's loss [B]; real and fake images pass D apart, each normalised by its own batch statistics."""
        z_rng, gen_rng, real_rng, fake_rng, penalty_rng = jax.random.split(rng, 5)
        real, cond, disc = self.target(batch), self.conditions(batch), w.nets["disc"]
        z = self.latents(z_rng, len(real))
        fake, gen_vars = self.gen.apply(w.nets["gen"], z, cond, train=True, rngs={"dropout": gen_rng})
        real_logits, vars = self._judge(disc, w, real, cond, real_rng)
        fake_logits, vars = self._judge({**disc, **vars}, w, fake, cond, fake_rng)

        def penalise() -> Array:
            critic = lambda x: self._judge({**disc, **vars}, w, x, cond, real_rng)[0]  # noqa: E731
            return self.penalty.every * self.penalty(critic, real, fake, penalty_rng)

        penalty = lazily(self.penalty.every, w.step, penalise, jnp.zeros(len(real)))
        signs = jnp.sign(real_logits)  # their mean nears 1 as D learns its images by heart (Karras et al. 2020, eq. 1)
        metrics = {
            "d_real": real_logits,
            "d_fake": fake_logits,
            "penalty": penalty,
            "accuracy": 0.5 * (real_logits > 0) + 0.5 * (fake_logits < 0),
            "r_t": signs,
        }
        extra = {"augment_p": self.augment.adapt(self._p(w), signs.mean(), len(real))} if self.augment.adapts else {}
        return Loss(self.loss.disc(real_logits, fake_logits) + penalty, metrics, {"gen": gen_vars, "disc": vars}, extra)

    def gen_loss(self, w: Weights, batch: Batch, rng: Array) -> Loss:
        """G's loss [B] on fresh latents, told what the batch is told."""
        z_rng, gen_rng, disc_rng, penalty_rng = jax.random.split(rng, 4)
        cond, num = self.conditions(batch), len(batch[self.spec.target])
        inputs, run = (self.latents(z_rng, num), cond), partial(self.gen.apply, train=True, rngs={"dropout": gen_rng})
        fake, gen_vars = run(w.nets["gen"], *inputs)
        logits, vars = self._judge(w.nets["disc"], w, fake, cond, disc_rng)
        memory = w.extra.get("gen_penalty", {})

        def penalise() -> tuple[Array, Memory]:
            generate = lambda *args, method=None: run(w.nets["gen"], *args, method=method)[0]  # noqa: E731
            penalty, memory_after = self.gen_penalty(generate, inputs, memory, penalty_rng)
            return self.gen_penalty.every * penalty, memory_after

        penalty, memory = lazily(self.gen_penalty.every, w.step, penalise, (jnp.zeros(num), memory))
        extra = {"gen_penalty": memory} if memory else {}
        return Loss(self.loss.gen(logits) + penalty, {"gen_penalty": penalty}, {"gen": gen_vars, "disc": vars}, extra)

    def _judge(self, disc: Variables, w: Weights, x: Array, cond: Cond, rng: Array) -> tuple[Array, Variables]:
        """D's logits [B] of augmented images, and its collections."""
        augment_rng, disc_rng = jax.random.split(rng)
        x = self.augment(x, augment_rng, self._p(w))
        return self.disc.apply(disc, x, cond, train=True, rngs={"dropout": disc_rng})

    def _p(self, w: Weights) -> Array | float:
        return w.extra["augment_p"] if self.augment.adapts else self.augment.p

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Both losses on held-out images, without penalties and augmentation, [B] each."""
        real, cond = self.target(batch), self.conditions(batch)
        fake = self.sample(w, rng, len(real), cond)
        d_real, d_fake = (self.disc.apply(w.nets["disc"], x, cond)[0] for x in (real, fake))
        d_loss, g_loss = self.loss.disc(d_real, d_fake), self.loss.gen(d_fake)
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """G(z) for fresh latents, [num, H, W, C]."""
        return self.gen.apply(w.nets["gen"], self.latents(rng, num), cond)[0]


def _with_vars(state: TrainState, loss: Loss) -> TrainState:
    """The state with the collections of both nets and the parts of `extra` that changed; a GAN's losses say `vars` by net."""
    nets = {name: net.replace(vars=loss.vars[name]) for name, net in state.nets.items()}
    return state.replace(nets=nets, extra={**state.extra, **loss.extra})


def _means(loss: Loss) -> Metrics:
    return {k: v.mean() for k, v in loss.metrics.items()}
