"""Generative adversarial nets (Goodfellow et al. 2014, arXiv:1406.2661) and the papers that differ from it by a part.

    min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))                                                               (1)

    paper                                    loss             penalty     n_critic  nets
    GAN (Goodfellow et al. 2014)             non_saturating   none        1         mlp_*
    conditional GAN (Mirza & Osindero 2014)  the same, with labels given to both
    DCGAN (Radford et al. 2015)              non_saturating   none        1         dcgan_*
    LSGAN (Mao et al. 2016)                  least_squares    none        1         dcgan_*
    WGAN-GP (Gulrajani et al. 2017)          wasserstein      gradient    5         resnet_*

A step is algorithm 1: `n_critic` updates of D on as many parts of the batch, then one of G.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, Metrics, PerExample, value_and_grads
from jaxgen.core.net import Net
from jaxgen.core.parallel import microbatches
from jaxgen.core.state import Array, NetState, PyTree, TrainState, Variables, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.gan import GanLoss, NonSaturating
from jaxgen.losses.regularize import NoPenalty, Penalty, lazily

PRIORS = {
    "normal": lambda rng, shape: jax.random.normal(rng, shape),
    "uniform": lambda rng, shape: jax.random.uniform(rng, shape, minval=-1.0, maxval=1.0),
}


def others(variables: Variables) -> Variables:
    """A net's collections that no gradient trains."""
    return {k: v for k, v in variables.items() if k != "params"}


@dataclass(frozen=True, kw_only=True)
class Gan:
    """`gen` is called as gen(z [B, z_dim], label [B]) -> images, `disc` as disc(images, label) -> logits [B]."""

    gen: Net
    disc: Net
    classes: int = 0  # labels; 0 is an unconditional model
    loss: GanLoss = field(default_factory=NonSaturating)
    penalty: Penalty = field(default_factory=NoPenalty)
    n_critic: int = 1
    z_dim: int = 100
    prior: str = "normal"

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise UserError(f"method.prior={self.prior!r} is unknown; there are: {', '.join(PRIORS)}")
        if self.n_critic < 1:
            raise UserError(f"method.n_critic={self.n_critic} must be at least 1")

    @property
    def batches_per_step(self) -> int:
        """Batches that one step consumes: D sees new images at each of its updates."""
        return self.n_critic

    def latents(self, rng: Array, num: int) -> Array:
        """z ~ p(z), [num, z_dim]."""
        return PRIORS[self.prior](rng, (num, self.z_dim))

    def labels(self, batch: Batch, num: int) -> Array:
        """int32 [num]; zeros, which the nets ignore, when the model is unconditional."""
        if not self.classes:
            return jnp.zeros(num, jnp.int32)
        if "label" not in batch:
            raise UserError(f"this GAN was built for {self.classes} labels and got none; give one per image")
        return batch["label"]

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        gen_rng, disc_rng = jax.random.split(rng)
        x = to_float(batch["image"])
        label = self.labels(batch, len(x))
        gen = self.gen.init(gen_rng, self.latents(rng, len(x)), label)
        disc = self.disc.init(disc_rng, x, label)
        return TrainState(step=jnp.zeros((), jnp.int32), nets={"gen": gen, "disc": disc})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Algorithm 1: n_critic updates of D, then one of G."""
        disc_rng, gen_rng = jax.random.split(rng)
        parts = microbatches(batch, self.n_critic)

        def train_disc(nets: dict[str, NetState], inputs: tuple[Batch, Array]) -> tuple[dict[str, NetState], Metrics]:
            part, key = inputs
            w = state.replace(nets=nets).view()
            (loss, (metrics, vars)), grads = value_and_grads(
                lambda p: self.disc_loss(p, w, part, key), nets["disc"].params
            )
            disc = self.disc.update(nets["disc"], grads, vars["disc"], step=state.step, updates=self.n_critic)
            metrics = {"d_loss": loss} | {k: v.mean() for k, v in metrics.items()}
            return {**nets, "gen": nets["gen"].replace(vars=vars["gen"]), "disc": disc}, metrics

        keys = jax.random.split(disc_rng, self.n_critic)
        nets, metrics = jax.lax.scan(train_disc, state.nets, (parts, keys))
        metrics = {k: v.mean() for k, v in metrics.items()}

        w = state.replace(nets=nets).view()
        last = jax.tree.map(lambda v: v[-1], parts)
        (loss, (_, vars)), grads = value_and_grads(lambda p: self.gen_loss(p, w, last, gen_rng), nets["gen"].params)
        gen = self.gen.update(nets["gen"], grads, vars["gen"], step=state.step)
        nets = {**nets, "gen": gen, "disc": nets["disc"].replace(vars=vars["disc"])}
        metrics |= {"g_loss": loss, "loss": metrics["d_loss"] + loss}
        return state.replace(step=state.step + 1, nets=nets), metrics

    def disc_loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array
    ) -> tuple[Array, tuple[Metrics, dict[str, Variables]]]:
        """D's loss [B]; real and fake images pass D apart, each normalised by its own batch statistics."""
        z_rng, real_rng, fake_rng, penalty_rng = jax.random.split(rng, 4)
        real = to_float(batch["image"])
        label = self.labels(batch, len(real))
        gen, vars = w.nets["gen"], others(w.nets["disc"])
        fake, gen_vars = self.gen.apply(
            gen["params"], others(gen), self.latents(z_rng, len(real)), label, train=True, rngs={"dropout": z_rng}
        )
        real_logits, vars = self.disc.apply(params, vars, real, label, train=True, rngs={"dropout": real_rng})
        fake_logits, vars = self.disc.apply(params, vars, fake, label, train=True, rngs={"dropout": fake_rng})

        def critic(x: Array) -> Array:
            return self.disc.apply(params, vars, x, label, train=True, rngs={"dropout": real_rng})[0]

        penalty = lazily(self.penalty, w.step, critic, real, fake, penalty_rng)
        metrics = {
            "d_real": real_logits,
            "d_fake": fake_logits,
            "penalty": penalty,
            "accuracy": 0.5 * (real_logits > 0) + 0.5 * (fake_logits < 0),
            "r_t": jnp.sign(real_logits),  # towards 1 as D learns its images by heart (Karras et al. 2020, eq. 1)
        }
        return self.loss.disc(real_logits, fake_logits) + penalty, (metrics, {"gen": gen_vars, "disc": vars})

    def gen_loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array
    ) -> tuple[Array, tuple[Metrics, dict[str, Variables]]]:
        """G's loss [B] on fresh latents, with the batch's labels."""
        z_rng, disc_rng = jax.random.split(rng)
        num = len(batch["image"])
        label = self.labels(batch, num)
        disc = w.nets["disc"]
        fake, gen_vars = self.gen.apply(
            params, others(w.nets["gen"]), self.latents(z_rng, num), label, train=True, rngs={"dropout": z_rng}
        )
        logits, vars = self.disc.apply(
            disc["params"], others(disc), fake, label, train=True, rngs={"dropout": disc_rng}
        )
        return self.loss.gen(logits), ({}, {"gen": gen_vars, "disc": vars})

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Both losses on held-out images, without the penalty, [B] each."""
        real = to_float(batch["image"])
        label = self.labels(batch, len(real))
        fake = self.gen.module.apply(w.nets["gen"], self.latents(rng, len(real)), label)
        d_real = self.disc.module.apply(w.nets["disc"], real, label)
        d_fake = self.disc.module.apply(w.nets["disc"], fake, label)
        d_loss, g_loss = self.loss.disc(d_real, d_fake), self.loss.gen(d_fake)
        return {"loss": d_loss + g_loss, "d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    def sample(self, w: Weights, rng: Array, num: int, cond: Batch) -> Array:
        """G(z) for fresh latents and the labels asked for, [num, H, W, C]."""
        return self.gen.module.apply(w.nets["gen"], self.latents(rng, num), self.labels(cond, num))
