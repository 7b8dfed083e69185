"""What the latents of a VAE do: how much each knows of a picture, and what changes with it."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys
from jaxgen.core.method import Infers
from jaxgen.core.ranges import Count, Natural, Range
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.data.sources import Source
from jaxgen.evaluation.per_image import Report, drawn, looked_at
from jaxgen.runs.experiment import Experiment

ACTIVE = 0.01  # variance of a latent's posterior mean over pictures (Burda et al. 2015, section 5.1)


@dataclass(frozen=True)
class Traversals:
    """A row for each of the latents that know most: from a held-out picture's code it goes through the prior's quantiles.

    Where latents are drawn in groups, a second picture keeps those of the upper groups and draws the rest anew: none is kept in
    its first row, in each further one those of one more grid.
    """

    needs: ClassVar[Any] = Infers
    reads: ClassVar[bool] = True
    every: Natural = 1000
    num: Count = 512  # held-out pictures over which divergences are averaged
    rows: Count = 10
    steps: Annotated[int, Range(least=2)] = 9  # pictures of a row

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """active_units; kl_1 ... kl_ROWS, nats of the latents that know most, and kl_others, of all the others together."""

        def inferred(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
            return exp.method.inferred(w, *looked_at(exp, w, batch, rng))

        program, found = exp.jit((self, "inferred"), inferred), []
        for i, (batch, mask) in enumerate(exp.held_out(source, self.num)):
            z, kl = jax.device_get(program(ema, batch, keys.named(exp.root, "evaluation", i)))
            found.append((z[mask > 0], kl[mask > 0]))
        z, kl = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
        kl, active = kl.mean(0), (z.var(0) > ACTIVE).sum()
        order = np.argsort(-kl, kind="stable")[: self.rows]
        figures = {"active_units": float(active), **{f"kl_{i + 1}": float(kl[j]) for i, j in enumerate(order)}}
        figures["kl_others"] = float(kl.sum() - kl[order].sum())

        first, _ = next(exp.held_out(source, 1))
        program = exp.jit((self, "pictures"), lambda w, given, rng: self._pictures(exp, w, *given, rng))
        images = jax.device_get(program(ema, (first, order), keys.named(exp.root, "traversals")))
        return Report(figures, images, columns=self.steps, about=drawn(source, self.num))

    def _pictures(self, exp: Experiment, w: Weights, batch: Batch, order: Array, rng: Array) -> dict[str, Array]:
        """Pure: the grids [N, H, W, C]."""
        seen, rng = looked_at(exp, w, batch, rng)
        z = exp.method.inferred(w, seen, rng)[0][0]
        quantiles = [NormalDist().inv_cdf((i + 0.5) / self.steps) for i in range(self.steps)]
        moved = jax.vmap(lambda i: jax.vmap(lambda q: z.at[i].set(q))(jnp.array(quantiles)))(order)
        grids = {"traversal": moved}
        sizes = exp.method.sizes
        if len(sizes) > 1:
            at = np.cumsum(sizes)
            ends = [0, *(int(at[i]) for i in range(len(sizes) - 1) if sizes[i] != sizes[i + 1])]
            kept, *others = exp.method.draw_latents(rng, 1 + self.steps)
            above = np.arange(sum(sizes)) < np.array(ends)[:, None]
            grids["upper_kept"] = jnp.where(above[:, None], kept, jnp.stack(others))
        told = jax.tree.map(lambda c: c[:1], exp.method.conditions(seen))

        def made(latents: Array) -> Array:
            latents = latents.reshape(-1, len(z))
            cond = jax.tree.map(lambda c: jnp.repeat(c, len(latents), 0), told)
            return exp.show(w.frozen, exp.method.from_latents(w, latents, cond), cond)

        return {name: made(latents) for name, latents in grids.items()}
