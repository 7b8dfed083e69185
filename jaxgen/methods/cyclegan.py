"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): pictures of one kind become pictures of another, learned without pairs.

    L = L_GAN(G, D_Y) + L_GAN(F, D_X) + c (E |F(G(x)) - x| + E |G(F(y)) - y|)        G: X -> Y, F: Y -> X     (eqs. 1 to 3)
      + i c (E |G(y) - y| + E |F(x) - x|)                                            identity                 (section 5.2)

A step is that of the authors' code: one update of both generators, then one of each discriminator, which sees pictures of the last
steps among the new ones (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3).
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.conditions import Cond
from jaxgen.core.method import Batch, Loss, Metrics, PerExample, value_and_grads
from jaxgen.core.net import Net
from jaxgen.core.ranges import Natural, NonNegative
from jaxgen.core.spec import DataSpec, Spec
from jaxgen.core.state import Array, PyTree, TrainState, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.distance import L1, distance
from jaxgen.losses.gan import GanLoss, LeastSquares
from jaxgen.methods.gan import HELD, each, streams

Pictures = dict[str, Array]  # of both kinds by name, [B, H, W, C] in [-1, 1]


@dataclass(frozen=True, kw_only=True)
class CycleGan:
    """`gen` and `disc` stand for two nets each: gen_image makes pictures of the field "image" of those of the other, and so on.

    gen(picture [B, H, W, C]) -> picture, disc(picture) -> logits [B] or [B, h, w].
    """

    gen: Net
    disc: Net
    spec: DataSpec
    loss: GanLoss = field(default_factory=LeastSquares)
    game: NonNegative = 2.0  # of G's loss in the game: the paper's squares are whole, those of least_squares halves
    cycle: NonNegative = 10.0
    identity: NonNegative = 0.5  # as a share of `cycle`: of the authors' code; in the paper for paintings alone
    pool: Natural = 50  # pictures of earlier steps for each D; 0: none
    stats: Literal["running", "batch"] = "running"  # by which batch norm samples
    dropout: Literal["training", "always"] = "training"

    makes: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self) -> None:
        if list(self.spec.conditions) != list(self.spec.conditions.of("image")) or len(self.spec.conditions) != 1:
            raise UserError(
                f"cyclegan learns of two kinds of pictures, and is told {self.spec.conditions or 'nothing'}; take a source of two "
                "(unpaired), and no task that adds conditions"
            )
        if not getattr(self.gen.module, "of_pictures", False):
            raise UserError("method.gen must make pictures of pictures; set method.gen.name=resnet_translator")
        shapes = [self.spec[name].shape for name in self.kinds]
        sides = [shape[:-1] for shape in shapes]
        if sides[0] != sides[1]:
            told = " and ".join("x".join(map(str, own)) for own in sides)
            least = min(map(min, filter(None, sides)))
            raise UserError(
                f"cyclegan makes pictures as large as those that it sees, and its two kinds are {told}; "
                f"set config.data.source_a.size={least} and config.data.source_b.size={least}"
            )
        if self.identity and shapes[0][-1] != shapes[1][-1]:
            raise UserError(
                f"method.identity={self.identity:g} wants pictures that stay as they are, and theirs have {shapes[0][-1]} and "
                f"{shapes[1][-1]} channels; set method.identity=0.0"
            )
        if self.loss.relative:
            raise UserError(
                "method.loss of cyclegan looks at one kind of pictures at a time; set method.loss=least_squares"
            )

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions."""
        return ("image",)

    @property
    def kinds(self) -> tuple[str, str]:
        """The fields of both kinds of pictures: what samples are of, and what they are made of."""
        return self.spec.target, next(iter(self.spec.conditions))

    def other(self, kind: str) -> str:
        """The other kind."""
        return next(name for name in self.kinds if name != kind)

    @cached_property
    def players(self) -> dict[str, Net]:
        """The nets by name."""
        found = {}
        for kind in self.kinds:
            shape = self.spec[kind].shape
            found[f"gen_{kind}"] = replace(self.gen, module=self.gen.module.clone(shape=shape, conditions=Spec()))
            found[f"disc_{kind}"] = replace(self.disc, module=self.disc.module.clone(conditions=Spec()))
        return found

    def pictures(self, batch: Batch) -> Pictures:
        """Of both kinds."""
        return {kind: to_float(batch[kind]) for kind in self.kinds}

    # ------------------------------------------------------------------------------------------------------------------
    # Training

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for pictures shaped like the batch's."""
        x, nets = self.pictures(batch), {}
        for i, kind in enumerate(sorted(self.kinds)):
            gen_rng, disc_rng = jax.random.split(jax.random.fold_in(rng, i))
            nets[f"gen_{kind}"] = self.players[f"gen_{kind}"].init(gen_rng, x[self.other(kind)])
            nets[f"disc_{kind}"] = self.players[f"disc_{kind}"].init(disc_rng, x[kind])
        pools = {kind: empty_pool(self.pool, x[kind].shape[1:]) for kind in self.kinds} if self.pool else {}
        return TrainState(step=jnp.zeros((), jnp.int32), nets=nets, extra={"pool": pools} if pools else {})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """An update of both generators, then one of each discriminator by the pictures that these had made."""
        gen_rng, *keys = jax.random.split(rng, 5)
        x, w, gens = self.pictures(batch), state.view(), sorted(f"gen_{kind}" for kind in self.kinds)

        def both(params: PyTree) -> tuple[Array, tuple[Loss, Pictures]]:
            seen = w
            for name in gens:
                seen = seen.training(name, params[name])
            found, made = self.gen_loss(seen, x, gen_rng)
            return found.each.mean(), (found, made)

        (value, (found, made)), grads = jax.value_and_grad(both, has_aux=True)({n: w.nets[n]["params"] for n in gens})
        metrics = {"g_loss": value, **{k: v.mean() for k, v in found.metrics.items()}}
        nets = {k: net.replace(vars=found.vars.get(k, net.vars)) for k, net in state.nets.items()}
        norms = []
        for name in gens:
            own = self.players[name].lined_up(nets[name], grads[name])
            nets[name] = self.players[name].update(nets[name], own, step=state.step)
            norms.append(optax.global_norm(own))
        metrics["g_grad_norm"] = optax.global_norm(norms)
        state, pools = state.replace(nets=nets), dict(state.extra.get("pool", {}))
        for i, kind in enumerate(sorted(self.kinds)):
            fake, name = jax.lax.stop_gradient(made[kind]), f"disc_{kind}"
            if self.pool:
                pools[kind], fake = query(pools[kind], fake, *draws(keys[2 * i], len(fake), self.pool))
            loss = lambda w, kind=kind, fake=fake, key=keys[2 * i + 1]: self.disc_loss(w, kind, x[kind], fake, key)  # noqa: E731
            value, found, grads = value_and_grads(loss, state.view(), name)
            net = self.players[name]
            grads = net.lined_up(state.nets[name], grads)
            updated = net.update(state.nets[name], grads, found.vars, step=state.step)
            state = state.replace(nets={**state.nets, name: updated})
            metrics |= {f"d_loss_{kind}": value, f"d_grad_norm_{kind}": optax.global_norm(grads)}
            metrics |= {f"{k}_{kind}": v.mean() for k, v in found.metrics.items()}
        extra = {**state.extra, "pool": pools} if self.pool else state.extra
        return state.replace(step=state.step + 1, extra=extra), metrics

    def gen_loss(self, w: Weights, x: Pictures, rng: Array) -> tuple[Loss, Pictures]:
        """(the loss of both generators [B], what they made)."""
        nets, keys, metrics, made = dict(w.nets), iter(jax.random.split(rng, 8)), {}, {}

        def run(name: str, seen: Array) -> Array:
            options = {"train": True, "rngs": streams(next(keys)), "hold": HELD if name.startswith("disc") else ()}
            out, vars = self.players[name].apply(nets[name], seen, **options)
            nets[name] = {**nets[name], **vars}
            return out

        for kind in sorted(self.kinds):
            made[kind] = run(f"gen_{kind}", x[self.other(kind)])
        for kind in sorted(self.kinds):
            other = self.other(kind)
            metrics[f"g_game_{kind}"] = each(self.loss.gen(run(f"disc_{kind}", made[kind]), None))
            metrics[f"cycle_{other}"] = distance(L1(), run(f"gen_{other}", made[kind]), x[other])
            if self.identity:
                metrics[f"identity_{kind}"] = distance(L1(), run(f"gen_{kind}", x[kind]), x[kind])
        weights = {"g_game": self.game, "cycle": self.cycle, "identity": self.identity * self.cycle}
        loss = sum(weights[name.rpartition("_")[0]] * value for name, value in metrics.items())
        for kind in self.kinds:
            metrics[f"corr_{kind}"] = correlation(x[self.other(kind)], made[kind])
        vars = {name: {k: v for k, v in nets[name].items() if k != "params"} for name in nets}
        return Loss(loss, metrics, vars), made

    def disc_loss(self, w: Weights, kind: str, real: Array, fake: Array, rng: Array) -> Loss:
        """The loss of a discriminator [B]; real and generated pictures pass it apart."""
        name = f"disc_{kind}"
        net, disc, (real_rng, fake_rng) = self.players[name], w.nets[name], jax.random.split(rng)
        on_real, vars = net.apply(disc, real, train=True, rngs=streams(real_rng))
        on_fake, vars = net.apply({**disc, **vars}, fake, train=True, rngs=streams(fake_rng), hold=HELD)
        by_real, by_fake = (each(v) for v in self.loss.parts(on_real, on_fake))
        middle = self.loss.middle or 0.0
        right = 0.5 * (each(on_real) > middle) + 0.5 * (each(on_fake) < middle)
        metrics = {"d_loss_real": by_real, "d_loss_fake": by_fake, "d_real": each(on_real), "d_fake": each(on_fake)}
        return Loss(by_real + by_fake, {**metrics, "accuracy": right}, vars)

    # ------------------------------------------------------------------------------------------------------------------
    # Use

    def translate(self, w: Weights, kind: str, x: Array, rng: Array) -> Array:
        """Pictures of the other kind as pictures of this one, as samples are made."""
        options = {"train": self.stats == "batch", "dropping": self.dropout == "always", "rngs": streams(rng)}
        return self.players[f"gen_{kind}"].apply(w.nets[f"gen_{kind}"], x, **options, hold=HELD)[0]

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """What is made of the pictures that it is told, [num, H, W, C]."""
        made, told = self.kinds
        return self.translate(w, made, cond[told], rng)

    def there_and_back(self, w: Weights, kind: str, x: Array, rng: Array) -> tuple[Array, Array]:
        """(pictures of this kind as the other, and these as this kind again)."""
        there = self.translate(w, self.other(kind), x, rng)
        return there, self.translate(w, kind, there, jax.random.fold_in(rng, 1))

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The target's pictures there and back."""
        return self.there_and_back(w, self.kinds[0], to_float(batch[self.kinds[0]]), rng)[1]

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """On held-out pictures, [B] each: how far a cycle takes them from themselves, how light and dark are kept, what D says."""
        x, found = self.pictures(batch), {}
        for kind in self.kinds:
            there, back = self.there_and_back(w, kind, x[kind], rng)
            found[f"cycle_{kind}"] = distance(L1(), back, x[kind])
            found[f"corr_{self.other(kind)}"] = correlation(x[kind], there)
            for name, pictures, judge in (("real", x[kind], kind), ("fake", there, self.other(kind))):
                disc = f"disc_{judge}"
                found[f"d_{name}_{judge}"] = each(self.players[disc].apply(w.nets[disc], pictures)[0])
        return found


# ----------------------------------------------------------------------------------------------------------------------
# The pool


def empty_pool(size: int, shape: tuple[int, ...]) -> dict[str, Array]:
    """Room for so many pictures."""
    return {"pictures": jnp.zeros((size, *shape)), "count": jnp.zeros((), jnp.int32)}


def draws(rng: Array, num: int, size: int) -> tuple[Array, Array]:
    """For each of `num` pictures: whether an old one goes out in its place, and which."""
    swap_rng, place_rng = jax.random.split(rng)
    return jax.random.bernoulli(swap_rng, 0.5, (num,)), jax.random.randint(place_rng, (num,), 0, size)


def query(pool: dict[str, Array], fresh: Array, swap: Array, place: Array) -> tuple[dict[str, Array], Array]:
    """Pictures [B, ...] one after the other -> (the pool, the pictures that go out).

    While there is room a picture is kept and goes out itself; then it does so half of the time, and else takes the place of an old
    one, which goes out. swap [B], place [B]: `draws`.
    """
    size = len(pool["pictures"])

    def one(pool: dict[str, Array], inputs: tuple[Array, Array, Array]) -> tuple[dict[str, Array], Array]:
        x, swap, place = inputs
        full = pool["count"] == size
        at = jnp.where(full, place, pool["count"])
        old = pool["pictures"][at]
        kept = pool["pictures"].at[at].set(jnp.where(full & ~swap, old, x))
        return {"pictures": kept, "count": jnp.minimum(pool["count"] + 1, size)}, jnp.where(full & swap, old, x)

    return jax.lax.scan(one, pool, (fresh, swap, place))


def correlation(x: Array, y: Array) -> Array:
    """Of the brightness of two sets of pictures over their places, [B]; 0 where one is even, or their sizes differ."""
    if x.shape[1:3] != y.shape[1:3]:
        return jnp.zeros(len(x))
    x, y = (v.mean(-1).reshape(len(v), -1) for v in (x, y))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / jnp.maximum(jnp.sqrt(jnp.square(x).sum(-1) * jnp.square(y).sum(-1)), 1e-6)
