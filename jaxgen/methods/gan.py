"""Generative adversarial nets (Goodfellow et al. 2014, arXiv:1406.2661) and the papers that differ from it by a part.

    min_G max_D  E_x log D(x) + E_z log(1 - D(G(z)))                                                               (1)

    paper                                    loss             penalties, bound      n_critic  nets
    GAN (Goodfellow et al. 2014)             nonsaturating    none                  1         mlp_*
    conditional GAN (Mirza & Osindero 2014)  the same, with labels given to both
    DCGAN (Radford et al. 2015)              nonsaturating    none                  1         dcgan_*
    LSGAN (Mao et al. 2016)                  least_squares    none                  1         dcgan_*
    AC-GAN (Odena et al. 2016)               any, and D says which label an image has
    WGAN (Arjovsky et al. 2017)              wasserstein      weights in +-0.01     5         dcgan_*
    WGAN-GP (Gulrajani et al. 2017)          wasserstein      gradient              5         resnet_*
    StyleGAN2 (Karras et al. 2019)           nonsaturating    R1, path length       1         stylegan2_*
    pix2pix (Isola et al. 2016)              nonsaturating    none                  1         unet_translator, patchgan

In the last, arXiv:1611.07004, G is told a picture and has no latent; D judges what it makes beside that picture, and G's loss has
100 E |y - G(x)| more (eq. 4, `pixel_loss`). Its noise is dropout, which is on in samples too (section 3, `dropout`).

A step is algorithm 1: `n_critic` updates of D on as many parts of the batch, then one of G. Each player's loss is that of the
game and penalties of its own; D sees real and generated images through `augment`.
"""

import warnings
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from jaxgen.core.conditions import Cond, prepare
from jaxgen.core.inputs import Input
from jaxgen.core.method import Batch, Loss, Metrics, PerExample, value_and_grads
from jaxgen.core.net import Net
from jaxgen.core.parallel import as_batch, microbatches
from jaxgen.core.ranges import Count, NonNegative
from jaxgen.core.spec import BatchSize, DataSpec, Spec
from jaxgen.core.state import Array, PyTree, TrainState, Variables, Weights
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.distance import L1, Distance, distance
from jaxgen.losses.gan import GanLoss, NonSaturating
from jaxgen.losses.regularize import (
    GenPenalty,
    Memory,
    NoGenPenalty,
    NoPenalty,
    PathLength,
    Penalty,
    Regularizer,
    Seen,
    lazily,
)
from jaxgen.methods.gan_augment import GanAugment, NoAugment
from jaxgen.methods.gan_fade import LinearFade, NoFade
from jaxgen.methods.gan_prior import PRIORS, NoTruncation
from jaxgen.methods.latent_restorer import Searched
from jaxgen.nets.gan import Judged
from jaxgen.nets.spectral import settled, sigmas

HELD = ("spectral",)  # collections that move in the first pass of an update of their own net, and nowhere else


@dataclass(frozen=True, kw_only=True)
class Gan(Searched):
    """`gen` is called as gen(z [B, z_dim], cond) -> images, `disc` as disc(images, cond) -> logits [B] or [B, h, w], or Judged.

    A `gen` that is `of_pictures` has no latent: gen(cond) -> images.
    """

    gen: Net
    disc: Net
    spec: DataSpec
    loss: GanLoss = field(default_factory=NonSaturating)
    disc_penalties: Penalty | tuple[Penalty, ...] = field(default_factory=NoPenalty)
    gen_penalties: GenPenalty | tuple[GenPenalty, ...] = field(default_factory=NoGenPenalty)
    pixel_loss: Distance | tuple[Distance, ...] | None = None  # of G: what it makes of pictures against the data
    augment: GanAugment = field(default_factory=NoAugment)
    order: Literal["disc_first", "gen_first"] = "disc_first"
    n_critic: Count = 1
    gen_batch: Count = 1  # images of G's update, as a multiple of those of D's
    fakes: Literal["batch", "data", "uniform"] = "batch"  # labels of generated images: the batch's, shuffled, or any
    label_weight: NonNegative = 1.0  # of D's loss by the labels that it reads, where it does (AC-GAN)
    gen_label_weight: NonNegative = 0.1  # of G's
    z_dim: Count = 100
    prior: str = "normal"
    truncate: NoTruncation = field(default_factory=NoTruncation)  # of samples
    stats: Literal["standing", "running", "batch"] = "standing"  # by which G's batch norm samples
    dropout: Literal["training", "always"] = "always"  # when a G of pictures drops units: in samples too
    fade: NoFade = field(default_factory=NoFade)  # of nets that grow
    standing: Count = 16  # batches that standing statistics are of
    log_sigma: bool = False  # log the largest singular value of every kernel that is divided by it
    batch: BatchSize = 64

    makes: ClassVar[tuple[str, ...]] = ("image", "latent")

    def __post_init__(self) -> None:
        refuse_unmet(self)
        if self.prior not in PRIORS:
            raise UserError(f"method.prior={self.prior!r} is unknown; there are: {', '.join(PRIORS)}")
        if self.fakes == "uniform" and (odd := self.told_more):
            what = f"{odd[0]!r} is a {self.spec[odd[0]].kind}"
            raise UserError(f"method.fakes='uniform' draws labels of its own, and {what}; set method.fakes=batch")
        if self.fakes == "uniform" and not self.spec.conditions:
            raise UserError(
                "method.fakes='uniform' draws labels for generated images, and the run is told none; set data.labels=True, or set "
                "method.fakes=batch"
            )
        if self.of_pictures or self.pixel_loss:
            self._refuse_unlike_pictures()
        if self.truncate.options() and not self.styled:
            raise UserError(
                "method.truncate='style' draws the latent w of StyleGAN2 to its mean, and method.gen has none; set "
                "method.truncate=latent"
            )
        if self.augment.start() and self.loss.middle is None:
            raise UserError(
                f"method.augment adapts to how often D calls real images real, and no logit of {type(self.loss).__name__} says so; "
                "set method.augment=diffaugment or method.loss=nonsaturating"
            )
        for key in ("gen", "disc"):
            self.player(key)
            if (
                isinstance(self.fade, LinearFade)
                and "alpha" not in signature(getattr(self, key).module.__call__).parameters
            ):
                raise UserError(
                    f"method.fade='linear' is for nets that grow, and method.{key} does not; set method.fade=none"
                )
        if self.stats == "batch":
            warnings.warn(
                "method.stats=batch: a sample of a net with batch norm depends on others of its batch", stacklevel=2
            )
        if any(isinstance(p, PathLength) for p in self.penalties("gen")) and not self.styled:
            raise UserError(
                "method.gen_penalties='path_length' is about the latent w of StyleGAN2, and method.gen has none; set "
                "method.gen_penalties=none"
            )

    def _refuse_unlike_pictures(self) -> None:
        """A UserError for options that do not go with pictures of pictures."""
        target, told = self.spec[self.spec.target], self.spec.conditions
        if not self.of_pictures:
            raise UserError(
                "method.pixel_loss compares what is made of pictures, and method.gen makes them of a latent; set "
                "method.pixel_loss=None"
            )
        if self.fakes != "batch":
            raise UserError(
                f"method.fakes={self.fakes!r} is about labels, and G is told pictures; set method.fakes=batch"
            )
        if apart := next((name for name, field in told.items() if field.order != target.order), ""):
            raise UserError(
                f"{apart!r} and {self.spec.target!r} do not belong together in these data; set config.method.name=cyclegan"
            )
        if type(self.augment) is not NoAugment:  # the others inherit from it
            raise UserError(
                "method.augment would move what D judges away from the pictures that it is told; set method.augment=none, and "
                "config.data.augment=('flip',)"
            )

    @property
    def of_pictures(self) -> bool:
        """Whether G makes pictures of pictures that it is told, without a latent."""
        return getattr(self.gen.module, "of_pictures", False)

    def inputs(self, z: Array, cond: Cond) -> tuple:
        """What G is called with."""
        return (cond,) if self.of_pictures else (z, cond)

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions: what both nets take."""
        theirs = getattr(self.disc.module, "takes", ())
        return tuple(kind for kind in getattr(self.gen.module, "takes", ()) if kind in theirs)

    @property
    def batches_per_step(self) -> int:
        """Batches that one step consumes: D sees new images at each of its updates."""
        return self.n_critic

    def penalties(self, net: str) -> dict[Any, str]:
        """Penalties of a player and their names in the log and in `extra`, those that do nothing left out."""
        found = getattr(self, f"{net}_penalties")
        found = [
            p for p in (found if isinstance(found, tuple) else (found,)) if not isinstance(p, NoPenalty | NoGenPenalty)
        ]
        return {
            p: p.label if [q.label for q in found].count(p.label) == 1 else f"{p.label}_{i}"
            for i, p in enumerate(found)
        }

    def player(self, net: str) -> Net:
        """G or D as it is updated: both updates of one whose penalties are apart go on from the same moments, and move less."""
        apart = {p.every for p in self.penalties(net) if p.apart}
        if len(apart) > 1:
            raise UserError(
                f"method.{net}_penalties: those apart share an update's pace, and have every={sorted(apart)}; set one `every` "
                "for all, or apart=False"
            )
        every = max(apart, default=0)
        return getattr(self, net).slowed(every / (every + 1)) if every else getattr(self, net)

    def settings(self) -> dict[str, Input]:
        """Truncation."""
        return {"truncate": Input(self.truncate)}

    def latents(self, rng: Array, num: int) -> Array:
        """z ~ p(z), [num, z_dim]."""
        return as_batch(PRIORS[self.prior](rng, (num, self.z_dim)))

    def drawn(self, rng: Array, num: int) -> Array:
        """What G is trained on: latents, or two of each image [num, 2, z_dim] where it mixes their styles."""
        if not self.styled:
            return self.latents(rng, num)
        return jnp.stack([self.latents(key, num) for key in jax.random.split(rng)], 1)

    def target(self, batch: Batch) -> Array:
        """The images, [B, H, W, C] in [-1, 1]."""
        return to_float(batch[self.spec.target])

    def real(self, batch: Batch, step: Array) -> Array:
        """The images as they are judged at that step."""
        return self.fade.blend(self.target(batch), step)

    def conditions(self, batch: Batch) -> Cond:
        """What both players are told; a condition that the batch lacks is left to the nets."""
        return {name: prepare(self.spec, name, batch[name]) for name in self.spec.conditions if name in batch}

    @property
    def told_more(self) -> list[str]:
        """The conditions that are no labels, which cannot be drawn."""
        return [name for name, field in self.spec.conditions.items() if field.kind != "label"]

    def told(self, batch: Batch, rng: Array) -> Cond:
        """What generated images are told."""
        cond = self.conditions(batch)
        if self.fakes == "batch" or not cond:
            return cond
        if self.fakes == "uniform":
            return any_labels(self.spec, len(batch[self.spec.target]), rng)
        order = jax.random.permutation(rng, len(batch[self.spec.target]))
        return jax.tree.map(lambda v: v[order], cond)

    # ------------------------------------------------------------------------------------------------------------------
    # Training

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        gen_rng, disc_rng = jax.random.split(rng)
        x, cond = self.target(batch), self.conditions(batch)
        gen = self.gen.init(gen_rng, *self.inputs(self.latents(rng, len(x)), cond), **self.fade.options(jnp.int32(0)))
        disc = self.disc.init(disc_rng, x, cond, **self.fade.options(jnp.int32(0)))
        sloped = [name for p, name in self.penalties("disc").items() if p.slopes]
        if "batch_stats" in disc.vars and sloped:
            raise UserError(
                f"method.disc has batch norm, so that an example's logit depends on others, and {sloped[0]} needs its own; set "
                "method.disc.norm=layer or method.disc.norm=none"
            )
        parts = {name: p.start() for p, name in self.penalties("gen").items()} | {"augment": self.augment.start()}
        extra = {name: memory for name, memory in parts.items() if memory}
        return TrainState(step=jnp.zeros((), jnp.int32), nets={"gen": gen, "disc": disc}, extra=extra)

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Algorithm 1: n_critic updates of D and one of G."""
        disc_rng, gen_rng = jax.random.split(rng)
        parts, keys = microbatches(batch, self.n_critic), jax.random.split(disc_rng, self.n_critic)
        own = [(-1 - i if self.order == "disc_first" else i) % self.n_critic for i in range(self.gen_batch)]
        gen_part = jax.tree.map(lambda v: jnp.concatenate([v[i] for i in own]) if len(own) > 1 else v[own[0]], parts)

        def discs(state: TrainState) -> tuple[TrainState, Metrics]:
            state, found = jax.lax.scan(lambda state, part: self.update_disc(state, *part), state, (parts, keys))
            return state, {k: v.mean() for k, v in found.items()}

        def gens(state: TrainState) -> tuple[TrainState, Metrics]:
            return self.update_gen(state, gen_part, gen_rng)

        metrics: Metrics = {}
        for update in (discs, gens) if self.order == "disc_first" else (gens, discs):
            state, found = update(state)
            metrics |= found
        return state.replace(step=state.step + 1), metrics

    def update_disc(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """D's part of the step, `n_critic` times."""
        return self._update("disc", state, batch, rng, self.disc_loss, self.disc_penalty, updates=self.n_critic)

    def update_gen(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """G's part of the step."""
        return self._update("gen", state, batch, rng, self.gen_loss, self.gen_penalty)

    def _update(
        self, name: str, state: TrainState, batch: Batch, rng: Array, loss: Any, penalty: Any, updates: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update of a player, and one for each of its penalties that are apart and due; then its averages."""
        net, letter = self.player(name), name[0]
        apart = [(p, called) for p, called in self.penalties(name).items() if p.apart]

        def update(state: TrainState, of: Any, average: bool) -> tuple[TrainState, Array, Loss, Array]:
            value, found, grads = value_and_grads(of, state.view(), name)
            nets = {k: n.replace(vars=found.vars.get(k, n.vars)) for k, n in state.nets.items()}
            grads = net.lined_up(nets[name], grads)
            nets[name] = net.update(nets[name], grads, step=state.step, updates=updates, average=average)
            norm = optax.global_norm(grads)
            return state.replace(nets=nets, extra={**state.extra, **found.extra}), value, found, norm

        state, value, found, norm = update(state, lambda w: loss(w, batch, rng), not apart)
        metrics = {
            f"{letter}_loss": value,
            **{k: v.mean() for k, v in found.metrics.items()},
            f"{letter}_grad_norm": norm,
        }
        for i, (part, called) in enumerate(apart):
            key = jax.random.fold_in(rng, i + 1)

            def alone(state: TrainState = state, part: Any = part, key: Array = key) -> tuple[TrainState, Array]:
                return update(state, lambda w: penalty(part, w, batch, key), False)[:2]

            state, metrics[called] = lazily(part.every, state.step, alone, (state, jnp.zeros(())))
        if apart:
            followed = net.follow(state.nets[name], step=state.step, updates=updates)
            state = state.replace(nets={**state.nets, name: followed})
        return state, metrics | self._watched(name, state.view().nets[name])

    def _watched(self, name: str, variables: Variables) -> Metrics:
        """What tells how a net does: how far attention has opened, and sigma where it is asked for."""
        params = traverse_util.flatten_dict(variables["params"], sep="/")
        found = {path.replace("/", "_"): v for path, v in params.items() if path.endswith("/gamma") and not v.ndim}
        found = {"gamma": next(iter(found.values()))} if len(found) == 1 else found
        if self.log_sigma:
            found |= {f"sigma_{path.replace('/', '_')}": v for path, v in sigmas(variables).items()}
        return {f"{name}_{key}": v for key, v in found.items()}

    def disc_loss(self, w: Weights, batch: Batch, rng: Array) -> Loss:
        """D's loss [B]; real and fake images pass D apart, each normalised by its own batch statistics."""
        fake_rng, real_rng, seen_rng, penalty_rng = jax.random.split(rng, 4)
        real, cond, disc = self.real(batch, w.step), self.conditions(batch), w.nets["disc"]
        fake, fake_cond, gen_vars = self._imagine(w, batch, fake_rng, hold=HELD)
        judged, vars = self._judge(disc, w, real, cond, real_rng)
        real_logits, disc = judged.logit, {**disc, **vars}
        judged_fake, vars = self._judge(disc, w, fake, fake_cond, seen_rng, hold=HELD)
        fake_logits = judged_fake.logit

        by_real, by_fake = (each(v) for v in self.loss.parts(real_logits, fake_logits))
        loss, leaning = by_real + by_fake, each(real_logits) - (self.loss.middle or 0.0)
        metrics = {
            "d_loss_real": by_real,
            "d_loss_fake": by_fake,
            "d_real": each(real_logits),
            "d_fake": each(fake_logits),
            "accuracy": 0.5 * (leaning > 0) + 0.5 * (each(fake_logits) < (self.loss.middle or 0.0)),
            "r_t": jnp.sign(leaning),  # nears 1 as D learns its images by heart (Karras et al. 2020, eq. 1)
            **{name: jnp.asarray(value) for name, value in self.fade.options(w.step).items()},
        }
        if len(real) > 1:
            metrics["spread"] = self.spread(fake, fake_cond) / jnp.maximum(self.spread(real, cond), 1e-6)
        if judged.labels:
            read = label_loss(judged, cond)
            loss, metrics["label_accuracy"] = loss + self.label_weight * read, right(judged, cond)
        seen = self._seen(w, disc, real, fake, cond, real_rng)
        for penalty, name in self.penalties("disc").items():
            if not penalty.apart:
                value = lazily(
                    penalty.every,
                    w.step,
                    lambda p=penalty: penalised(p, p(seen, penalty_rng), len(real)),
                    jnp.zeros(len(real)),
                )
                loss, metrics[name] = loss + value, value
        memory = w.extra.get("augment", {})
        extra = {}
        if memory:
            metrics["augment_p"] = jnp.asarray(self.augment.probability(memory))
            extra["augment"] = self.augment.adapt(memory, leaning, w.step)
        return Loss(loss, metrics, {"gen": gen_vars, "disc": vars}, extra)

    def spread(self, x: Array, cond: Cond) -> Array:
        """Root mean square distance from the mean image []: it nears 0 as G collapses.

        Where a batch shows a label some times, from the mean image of the same label: a G that knows one image of each is told.
        """
        x, name, values = x.astype(jnp.float32).reshape(len(x), -1), self.spec.label, self.spec.classes
        if name in cond and 4 * values <= len(x):
            told = jax.nn.one_hot(cond[name], values)  # [B, K]
            means = told.T @ x / jnp.maximum(told.sum(0), 1.0)[:, None]
        else:
            told, means = jnp.ones((len(x), 1)), x.mean(0, keepdims=True)
        return jnp.sqrt(jnp.square(x - told @ means).mean())

    def disc_penalty(self, penalty: Penalty, w: Weights, batch: Batch, rng: Array) -> Loss:
        """A penalty of D as a loss of its own [B], on the images of the batch and fresh ones of G."""
        fake_rng, real_rng, penalty_rng = jax.random.split(rng, 3)
        real, cond = self.real(batch, w.step), self.conditions(batch)
        fake, _, _ = self._imagine(w, batch, fake_rng, hold=HELD)
        seen = self._seen(w, w.nets["disc"], real, fake, cond, real_rng)
        return Loss(penalised(penalty, penalty(seen, penalty_rng), len(real)))

    def _seen(self, w: Weights, disc: Variables, real: Array, fake: Array, cond: Cond, rng: Array) -> Seen:
        def critic(x: Array) -> Array:
            return each(self._judge(disc, w, x, cond, rng, hold=HELD)[0].logit)

        return Seen(critic, real, fake, disc["params"])

    def gen_loss(self, w: Weights, batch: Batch, rng: Array) -> Loss:
        """G's loss [B] on fresh latents."""
        fake_rng, seen_rng, real_rng, penalty_rng = jax.random.split(rng, 4)
        num, disc = len(batch[self.spec.target]), w.nets["disc"]
        fake, cond, gen_vars = self._imagine(w, batch, fake_rng)
        judged, vars = self._judge(disc, w, fake, cond, seen_rng, hold=HELD)
        real = None
        if self.loss.relative:
            seen, vars = self._judge(
                {**disc, **vars}, w, self.real(batch, w.step), self.conditions(batch), real_rng, hold=HELD
            )
            real = seen.logit
        loss, metrics, extra = each(self.loss.gen(judged.logit, real)), {}, {}
        if judged.labels:
            loss = loss + self.gen_label_weight * label_loss(judged, cond)
        if self.pixel_loss:
            metrics["pixel_loss"] = distance(self.pixel_loss, fake, self.target(batch))
            loss = loss + metrics["pixel_loss"]
        for penalty, name in self.penalties("gen").items():
            if not penalty.apart:
                memory = w.extra.get(name, {})
                compute = lambda p=penalty, m=memory: self._gen_penalty(p, w, fake_rng, cond, num, m, penalty_rng)  # noqa: E731
                value, memory = lazily(penalty.every, w.step, compute, (jnp.zeros(num), memory))
                loss, metrics[name] = loss + value, value
                extra |= {name: memory} if memory else {}
        return Loss(loss, metrics, {"gen": gen_vars, "disc": vars}, extra)

    def gen_penalty(self, penalty: GenPenalty, w: Weights, batch: Batch, rng: Array) -> Loss:
        """A penalty of G as a loss of its own [B], on fresh latents."""
        told_rng, fake_rng, penalty_rng = jax.random.split(rng, 3)
        name, num = self.penalties("gen")[penalty], len(batch[self.spec.target])
        memory = w.extra.get(name, {})
        value, memory = self._gen_penalty(penalty, w, fake_rng, self.told(batch, told_rng), num, memory, penalty_rng)
        return Loss(value, extra={name: memory} if memory else {})

    def _gen_penalty(
        self, penalty: GenPenalty, w: Weights, fake_rng: Array, cond: Cond, num: int, memory: Memory, rng: Array
    ) -> tuple[Array, Memory]:
        """-> (penalty [num], what it remembers); G has the streams and latents of `_imagine` with the same key."""
        _, z_rng, gen_rng = jax.random.split(fake_rng, 3)

        def generate(*args: Any, method: str | None = None) -> Array:
            return self.gen.apply(w.nets["gen"], *args, **self._training(w, gen_rng, HELD), method=method)[0]

        inputs = self.inputs(self.drawn(z_rng, num), cond)
        value, memory = penalty(generate, inputs, w.nets["gen"]["params"], memory, rng)
        return penalised(penalty, value, num), memory

    def _imagine(
        self, w: Weights, batch: Batch, rng: Array, hold: tuple[str, ...] = ()
    ) -> tuple[Array, Cond, Variables]:
        """(generated images for fresh latents, one for each example; what they were told; G's collections)."""
        told_rng, z_rng, gen_rng = jax.random.split(rng, 3)
        cond = self.told(batch, told_rng)
        z = self.drawn(z_rng, len(batch[self.spec.target]))
        fake, vars = self.gen.apply(w.nets["gen"], *self.inputs(z, cond), **self._training(w, gen_rng, hold))
        return fake, cond, vars

    def _judge(
        self, disc: Variables, w: Weights, x: Array, cond: Cond, rng: Array, hold: tuple[str, ...] = ()
    ) -> tuple[Judged, Variables]:
        """What D says of augmented images, and its collections."""
        augment_rng, disc_rng = jax.random.split(rng)
        x = self.augment(x, augment_rng, w.extra.get("augment", {}))
        said, vars = self.disc.apply(disc, x, cond, **self._training(w, disc_rng, hold))
        return judged(said), vars

    def _training(self, w: Weights, rng: Array, hold: tuple[str, ...]) -> dict[str, Any]:
        """How either net is run in training."""
        return {"train": True, "rngs": streams(rng), "hold": hold, **self.fade.options(w.step)}

    # ------------------------------------------------------------------------------------------------------------------
    # Use

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Both losses on held-out images, without penalties and augmentation, [B] each."""
        real, cond = self.real(batch, w.step), self.conditions(batch)
        fake = self.sample(w, rng, len(real), cond)
        disc = self._viewed(w, "disc")
        said = (self.disc.apply(disc, x, cond, **self.fade.options(w.step))[0] for x in (real, fake))
        d_real, d_fake = (judged(v).logit for v in said)
        d_loss, g_loss = self.loss.disc(d_real, d_fake), self.loss.gen(d_fake, d_real)
        found = {"d_loss": each(d_loss), "g_loss": each(g_loss), "d_real": each(d_real), "d_fake": each(d_fake)}
        return found | ({"l1": distance(L1(), fake, real)} if self.of_pictures else {})

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """G(z) for fresh latents, [num, H, W, C]."""
        z, told = self.found(w, rng, num, cond)
        return self.from_latents(w, z, told, jax.random.fold_in(rng, 1))

    def draw_latents(self, rng: Array, num: int) -> Array:
        """z [num, z_dim], truncated where samples are."""
        return self.truncate.latents(rng, (num, self.z_dim), self.prior)

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """G(z); without rng layers that add noise add what they keep of it."""
        return self._made(w, rng, *self.inputs(z, cond), **self.truncate.options(), **self.fade.options(w.step))

    @property
    def styled(self) -> bool:
        """Whether G has a latent w."""
        return hasattr(self.gen.module, "synthesize")

    def to_styles(self, w: Weights, z: Array, cond: Cond) -> Array:
        """w of z for every layer of G, [num, layers, D]."""
        gen, options = w.nets["gen"], self.truncate.options()
        styles, _ = self.gen.apply(gen, z, cond, method="map")
        return self.gen.module.apply(gen, styles, cond, **options, method="truncate") if options else styles

    def from_styles(self, w: Weights, styles: Array, rng: Array | None = None) -> Array:
        """Images of w [num, layers, D]."""
        return self._made(w, rng, styles, method="synthesize")

    def _made(self, w: Weights, rng: Array | None, *args: Any, **options: Any) -> Array:
        """What G makes of latents, by the statistics of samples."""
        gen = self._viewed(w, "gen")
        if "dropping" in signature(self.gen.module.__call__).parameters:
            options["dropping"] = self.dropout == "always" and rng is not None
        still = {"noise": "const"} if rng is None and getattr(self.gen.module, "noise", "none") == "random" else {}
        rngs = streams(jax.random.key(0) if rng is None else rng)
        return self.gen.apply(gen, *args, train=self.stats == "batch", rngs=rngs, hold=HELD, **still, **options)[0]

    def _viewed(self, w: Weights, net: str) -> Variables:
        """A net as it is used: what is averaged has a sigma of its own."""
        return settled(w.nets[net]) if getattr(self, net).ema else w.nets[net]

    def settle(self, w: Weights) -> dict[str, Variables]:
        """G's running statistics as those of `standing` batches of these very weights (Brock et al. 2018, appendix C.1).

        Those that training kept are of the raw weights: where these swing, noise that an average has lost is still in their
        variances, and its pictures turn pale. What G is told besides labels only data can give: those of training stay then.
        A training pass moves a statistic from r to k r + (1 - k) s, where s is the batch's: passes that begin at 0 and at 1 tell
        k, and so s.
        """
        gen = self._viewed(w, "gen")
        if self.stats != "standing" or "batch_stats" not in gen or self.told_more:
            return {}

        def after(start: Array, key: Array) -> PyTree:
            z_rng, told_rng, gen_rng = jax.random.split(key, 3)
            fixed = {**gen, "batch_stats": jax.tree.map(lambda v: jnp.full_like(v, start), gen["batch_stats"])}
            z = self.truncate.latents(z_rng, (self.batch, self.z_dim), self.prior)
            cond = any_labels(self.spec, self.batch, told_rng)
            return self.gen.apply(fixed, z, cond, **self._training(w, gen_rng, HELD))[1]["batch_stats"]

        keys = jax.random.split(jax.random.key(0), self.standing)
        starts = jnp.zeros(self.standing + 1).at[0].set(1.0)
        moved = jax.lax.map(lambda at: after(*at), (starts, jnp.concatenate([keys[:1], keys])))
        stats = jax.tree.map(lambda v: v[1:].mean(0) / (1.0 - (v[0] - v[1])), moved)
        return {"gen": {"batch_stats": stats}}


def streams(rng: Array) -> dict[str, Array]:
    """The random streams that a net may draw from."""
    names = ("dropout", "noise", "style")
    return dict(zip(names, jax.random.split(rng, len(names)), strict=True))


def any_labels(spec: Spec, num: int, rng: Array) -> Cond:
    """Labels drawn evenly from all that there are, [num] each."""
    fields = sorted(spec.conditions.items())
    keys = jax.random.split(rng, max(len(fields), 1))
    return {name: jax.random.randint(key, (num,), 0, f.values) for key, (name, f) in zip(keys, fields, strict=False)}


def judged(said: Any) -> Judged:
    """What a discriminator said, as Judged."""
    return said if isinstance(said, Judged) else Judged(said, {})


def each(logits: Array) -> Array:
    """[B, ...] -> [B]: the mean over an example's own logits."""
    return logits.reshape(len(logits), -1).mean(-1)


def penalised(penalty: Regularizer, value: Array, num: int) -> Array:
    """A penalty as part of a loss [num]: weighted by as many steps as it stands for."""
    return penalty.every * jnp.broadcast_to(value, (num,))


def label_loss(said: Judged, cond: Cond) -> Array:
    """Cross entropy of the labels that D read [B], summed over the conditions."""
    return sum(
        optax.softmax_cross_entropy_with_integer_labels(logits, cond[name]) for name, logits in said.labels.items()
    )


def right(said: Judged, cond: Cond) -> Array:
    """Whether D read all labels as they are [B]."""
    hits = [logits.argmax(-1) == cond[name] for name, logits in said.labels.items()]
    return jnp.stack(hits).all(0).astype(jnp.float32)
