"""A codec between the pixels and the method: another run's encoder, or a published one (Rombach et al. 2022,
arXiv:2112.10752, section 3.1).

    z = (encode(x) - mean) / std        what the method models
    x = decode(std z + mean)            what its samples become

mean and std of each channel of the latents are those that `latent_statistics` keeps beside the codec's checkpoint, or those that
were published with it (shift and 1 / scale); where nobody says them they are measured on the data once (the paper divides by the
standard deviation of the first batch). Either way they are kept in the run's config, and nothing else knows them. A
VQ-VAE gives its vectors, and what is sampled goes to the nearest code before it is decoded; a VAE gives a draw of its posterior.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys
from jaxgen.core.lender import Frozen, Lender, Loan, Role
from jaxgen.core.method import Encodes, HasMoments, Infers, Method, Quantizes
from jaxgen.core.ranges import Number, Positive
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Array, Batch, Task, is_cached, picture_target, with_conditions
from jaxgen.errors import UserError
from jaxgen.images import to_float

NAME = "codec"  # of the lent run, in the state and in the run's directory
ROLE = Role(Encodes, "codec (a VAE, a VQ-VAE, ...)")


def hidden(spec: Spec) -> tuple[str, ...]:
    """The names of the picture of which a part is hidden, and of its mask; () where there are none."""
    shown = spec.conditions.of("image").where(lambda _, field: field.shape == spec.shape)
    masks = spec.conditions.of("mask")
    return (next(iter(shown)), next(iter(masks))) if shown and masks else ()


@dataclass(frozen=True)
class Codec(Task):
    """The target becomes the latents of a trained run, or its codes as tokens. Latents without places are of one: [1, 1, D].

    Where the data are such latents, cached (jaxgen.cache), they are drawn and standardised here, as if they had been encoded now.

    Where a part of the picture is told (the task `hide`), so are its tokens: `known`, the number of codes where they are hidden.
    """

    last: ClassVar[bool] = True

    run: Lender
    tokens: bool = False  # the codes' indices, int32 [h, w], for models of tokens; of a pyramid [N], coarse first
    mean: tuple[Number, ...] = ()  # of each channel of the latents; () is what the codec's run knows, or measured
    std: tuple[Positive, ...] = ()
    statistics: Literal["known", "measured"] = "known"  # known: measured only where the codec does not say them

    def spec(self, spec: Spec) -> Spec:
        """The target as latents [h, w, C] or tokens; a UserError for a run that is no codec of these pictures."""
        cached = is_cached(spec)
        field = spec[spec.target] if cached else picture_target(spec, self)
        self.run.check("config.tasks.codec.run", replace(ROLE, target=not cached), spec, self)
        lent = self.run.abstract
        if cached and (field.kind == "tokens") != isinstance(lent.model, Quantizes):
            raise UserError(
                "the latents of config.data.path are of another codec than config.tasks.codec.run; cache them anew (--mode=cache), "
                "or name that codec"
            )
        if self.tokens and not isinstance(lent.model, Quantizes):
            raise UserError(
                "config.tasks.codec.tokens=True needs codes; name a VQ-VAE's run, or set config.tasks.codec.tokens=False"
            )
        x = jax.ShapeDtypeStruct((1, *field.shape), field.dtype if cached else jnp.float32)
        how = self.drawn if cached else self.encode
        z = jax.eval_shape(how, lent, x, jax.eval_shape(lambda: jax.random.key(0)))
        if len(self.mean) not in (0, z.shape[-1]) or len(self.mean) != len(self.std):
            raise UserError(
                f"config.tasks.codec.mean and std must hold {z.shape[-1]} numbers, one for each channel of the latents; set "
                "config.tasks.codec.mean=() config.tasks.codec.std=(), which measures them"
            )
        kind, values = ("tokens", lent.model.codes) if self.tokens else ("latent", 0)
        after = Spec({**spec, spec.target: Field(z.shape[1:], str(z.dtype), kind, "target", values)})
        if not (self.tokens and hidden(spec)):
            return after
        return with_conditions(
            after, self, known=Field(z.shape[1:], str(z.dtype), kind, values=values, empty=(values,))
        )

    def encode(self, lent: Frozen, x: Array, rng: Array) -> Array:
        """Pictures [B, H, W, C] -> latents [B, h, w, D] as the run has them, or int32 tokens [B, h, w] or [B, N]."""
        z = lent.model.encode(lent.weights, x, rng)
        if self.tokens:
            return _joined(z)
        z = lent.model.vectors(lent.weights, z) if isinstance(lent.model, Quantizes) else z
        return _placed(z)

    def kept(self, lent: Frozen, x: Array) -> Array:
        """What a cache holds of pictures: [B, h, w, 2 D], mean and log-variance, or a latent that is not drawn, or int32 codes."""
        if isinstance(lent.model, HasMoments):
            return jnp.concatenate(lent.model.moments(lent.weights, x), -1)
        if isinstance(lent.model, Infers):
            raise UserError(
                "the codec's latents are draws of which it tells no moments, so that they cannot be cached; train on pictures"
            )
        z = lent.model.encode(lent.weights, x, jax.random.key(0))
        return _joined(z) if isinstance(lent.model, Quantizes) else _placed(z)

    def spread(self, lent: Frozen, kept: Array) -> tuple[Array, Array]:
        """Means of z and of z^2 over draws of what a cache holds, [B, h, w, D] each."""
        if isinstance(lent.model, HasMoments):
            mean, log_var = jnp.split(kept.astype(jnp.float32), 2, -1)
            return mean, mean**2 + jnp.exp(log_var)
        z = lent.model.vectors(lent.weights, kept) if isinstance(lent.model, Quantizes) else kept.astype(jnp.float32)
        return z, z**2

    def drawn(self, lent: Frozen, cached: Array, rng: Array) -> Array:
        """What a cache holds of examples, [B, sides, ...] -> what `encode` gives of their pictures."""
        kept = cached[:, 0]
        if isinstance(lent.model, HasMoments):
            mean, log_var = jnp.split(kept.astype(jnp.float32), 2, -1)
            return mean + jnp.exp(0.5 * log_var) * jax.random.normal(rng, mean.shape)
        if isinstance(lent.model, Quantizes):
            return kept if self.tokens else lent.model.vectors(lent.weights, kept)
        return kept.astype(jnp.float32)

    def seen(self, spec: Spec, lent: Frozen, x: Array, rng: Array) -> Array:
        """Latents or tokens of the target, as pictures or as a cache holds it."""
        return self.drawn(lent, x, rng) if is_cached(spec) else self.encode(lent, to_float(x), rng)

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The target encoded, latents to mean 0 and standard deviation 1."""
        z = self.seen(spec, frozen[NAME], batch[spec.target], rng)
        if not self.tokens and self.mean:
            z = (z - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        after = {**batch, spec.target: jax.lax.stop_gradient(z)}
        if self.tokens and (names := hidden(spec)):
            shown, mask = (batch[name] for name in names)
            after["known"] = self.known(frozen[NAME], shown, mask, rng)
        return after

    def known(self, lent: Frozen, shown: Array, mask: Array, rng: Array) -> Array:
        """Tokens of what is shown of pictures, whose number is `codes` where any of their pixels is hidden."""
        maps = jax.eval_shape(lent.model.encode, lent.weights, shown, rng)
        parts, (height, width) = [], mask.shape[1:3]
        for _, h, w in (ids.shape for ids in jax.tree.leaves(maps)):
            rows, columns = -(-height // h), -(-width // w)  # of pixels that have a token
            wide = jnp.pad(mask[..., 0], ((0, 0), (0, rows * h - height), (0, columns * w - width)), mode="edge")
            parts.append(wide.reshape(-1, h, rows, w, columns).max((2, 4)).reshape(len(mask), -1))
        z = self.encode(lent, shown, rng)
        return jnp.where(jnp.concatenate(parts, 1).reshape(z.shape) > 0, lent.model.codes, z)

    def undo(self, frozen: dict[str, Frozen], x: Array) -> Array:
        """Latents or tokens -> pictures [B, H, W, C] in [-1, 1]."""
        model, w = frozen[NAME].model, frozen[NAME].weights
        if self.tokens:
            z = self._apart(frozen[NAME], x)
        else:
            z = x * jnp.asarray(self.std) + jnp.asarray(self.mean) if self.mean else x
            z = model.nearest(w, z) if isinstance(model, Quantizes) else self._apart(frozen[NAME], z)
        return jnp.clip(model.decode(w, z), -1.0, 1.0)

    def _apart(self, lent: Frozen, z: Array) -> Any:
        """Latents or tokens in the form in which the codec gives them: as vectors without places, as a pyramid."""
        if not isinstance(lent.model, Method):  # a published one takes pictures of any size, and gives one map
            return z
        x = jnp.zeros((len(z), *lent.model.spec.shape))
        maps, kind = jax.tree.flatten(jax.eval_shape(lent.model.encode, lent.weights, x, jax.random.key(0)))
        parts = jnp.split(z.reshape(len(z), -1), np.cumsum([m.size // len(z) for m in maps])[:-1], 1)
        return kind.unflatten(part.reshape(m.shape) for part, m in zip(parts, maps, strict=True))

    def loans(self) -> dict[str, Loan]:
        """The run."""
        return {NAME: Loan(self.run, ROLE)}

    def kept_in(self, folder: Path) -> Task:
        """With the run's copy."""
        return replace(self, run=self.run.kept_in(folder / NAME))

    def settle(self, spec: Spec, frozen: dict[str, Frozen], batches: Iterator[Batch], source: Any) -> dict[str, Any]:
        """mean and std of each channel, in float64 over examples and places: the codec's own, a cache's, or of these batches."""
        if self.tokens or self.mean:
            return {}
        known = getattr(self.run, "latents", {}) if self.statistics == "known" else {}
        if known := known or getattr(source, "latents", {}):
            return _standard(known["mean"], known["std"])
        lent = frozen[NAME]
        encode = jax.jit(lambda lent, x, i: self.seen(spec, lent, x, keys.named(jax.random.key(0), "settle", i)))
        target = spec.target
        z = np.concatenate([np.asarray(encode(lent, x[target], i), np.float64) for i, x in enumerate(batches)])
        z = z.reshape(-1, z.shape[-1])
        return _standard(z.mean(0), z.std(0))


def _joined(codes: Any) -> Array:
    """One map int32 [B, h, w] as it is; the maps of a pyramid as [B, N], coarse first."""
    maps = jax.tree.leaves(codes)
    return jnp.concatenate([ids.reshape(len(ids), -1) for ids in maps], 1) if len(maps) > 1 else maps[0]


def _placed(z: Array) -> Array:
    """Latents [B, h, w, D]; those without places, [B, D], are of one."""
    return z if z.ndim > 2 else z[:, None, None]


def _standard(mean: Any, std: Any) -> dict[str, tuple[float, ...]]:
    """As the config holds them; a channel that never varies is not divided by 0."""
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, np.maximum(std, 1e-6)))}
