"""The latents of a run's samples, called by the numbers that the pictures have, and pictures of latents."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import jax
import numpy as np

from jaxgen.core import conditions, keys, parallel
from jaxgen.core.inputs import holding
from jaxgen.core.method import HasLatent, HasStyles
from jaxgen.core.state import Array, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_uint8
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.trained import Trained

Name = Literal["", "z", "w", "w+"]


class Points(NamedTuple):
    """Latents and what the pictures are told besides, on the host."""

    latents: np.ndarray  # z [N, D], or w [N, layers, D]; float64 where they were computed
    cond: dict[str, np.ndarray]  # [N] each

    def __getitem__(self, rows: Any) -> "Points":
        """Some of them."""
        return Points(self.latents[rows], {k: v[rows] for k, v in self.cond.items()})

    def moved(self, latents: np.ndarray) -> "Points":
        """Other latents that are told the same."""
        return Points(latents, self.cond)


@dataclass(frozen=True)
class Space:
    """A trained run seen from its latents: z, from which it samples, or w, of which every layer has one (w+: each its own).

    Picture I of SEED is that of `--mode=sample --seed=SEED --num=N` for any N > I.
    """

    trained: Trained
    weights: Weights
    name: str = "z"
    seed: int = 0  # of pictures that are called by their number alone
    asked: Mapping[str, np.ndarray] = field(default_factory=dict)  # conditions asked for [n, ...]; labels take turns

    @staticmethod
    def open(
        trained: Trained, weights: Weights, name: Name, seed: int, asked: Mapping[str, np.ndarray], without_w: str
    ) -> "Space":
        """A UserError for a run without latents, or without that one; `without_w` is then the cure."""
        exp, called = trained.exp, trained.exp.config.method.name
        if not isinstance(exp.method, HasLatent):
            raise UserError(
                f"method {called} makes its samples of no latent; take a run of a GAN, a VAE or a diffusion model"
            )
        if exp.from_data:
            raise UserError(
                f"{trained.run.path} is told {exp.from_data[0]}, which only data can give; take a run that is told labels "
                "or nothing"
            )
        keys.refuse_seed(seed)
        styled = isinstance(exp.method, HasStyles) and exp.method.styled
        if name in ("w", "w+") and not styled:
            raise UserError(f"{trained.run.path}: its net has no latent w, as StyleGAN2 has; {without_w}")
        return Space(trained, exp.settled(weights), name or ("w" if styled else "z"), seed, asked)

    @property
    def exp(self) -> Experiment:
        """The run's."""
        return self.trained.exp

    @property
    def styled(self) -> bool:
        """Whether its latents are w."""
        return self.name != "z"

    @property
    def layers(self) -> int:
        """Of w."""
        return self.shape[0]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one latent: as the method has z, or (layers, D)."""

        def one(w: Weights, rng: Array) -> Array:
            z = self.exp.method.draw_latents(rng, 1)
            return self.exp.method.to_styles(w, z, conditions.nulls(self.exp.spec, 1)) if self.styled else z

        return jax.eval_shape(one, self.weights, self.exp.root).shape[1:]

    @property
    def label(self) -> str | None:
        """The condition that is a label."""
        return self.exp.spec.label

    # ------------------------------------------------------------------------------------------------------------------
    # Latents

    def drawn(self, numbers: np.ndarray, seed: int) -> Points:
        """Those of the pictures of these numbers."""
        batch = self.exp.feed.batch
        size = self.exp.spread(batch)

        def draw(w: Weights, _: dict, rng: Array) -> Array:
            return self.exp.method.draw_latents(rng, size)

        program = self.exp.jit(("latents", "draw", size), draw)
        rows = {}
        for i in sorted({int(n) // batch for n in numbers}):
            rng = keys.named(keys.root(seed), "sample", i)
            rows[i] = np.asarray(jax.device_get(program(self.weights, {}, rng)))
        z = np.stack([rows[int(n) // batch][int(n) % batch] for n in numbers])
        turns = {self.label: self.exp.labels(self.exp.spec.classes)} if self.label else {}
        told = {k: np.asarray(v)[np.asarray(numbers) % len(v)] for k, v in {**turns, **self.asked}.items()}
        points = Points(z.reshape(len(z), -1), told)
        return self.styles(points) if self.styled else points

    def styles(self, points: Points) -> Points:
        """z -> w."""
        return points.moved(self._run("to_styles", points, lambda m, w, z, cond: m.to_styles(w, z, cond)))

    def points(self, text: str, key: str) -> Points:
        """`0,3,7:2,FILE.npz:0`: pictures of the seed, of another seed, of a file that was written here; `key` is the text's."""
        found = []
        for word in text.split(","):
            match = re.fullmatch(r"(?:(.+):)?(\d+)", word.strip())
            if not match:
                raise UserError(
                    f"{key}={text} must be numbers of pictures, such as {key}=0,3,7:2 (picture 2 of seed 7) or FILE.npz:0"
                )
            where, number = match[1], int(match[2])
            if not where or where.isdigit():
                found.append(self.drawn(np.array([number]), int(where) if where else self.seed))
            else:
                found.append(self._stored(Path(where).expanduser(), number))
        return Points(*jax.tree.map(lambda *parts: np.concatenate(parts), *map(tuple, found)))

    def _stored(self, path: Path, number: int) -> Points:
        """A latent of a file."""
        name, label = "w" if self.styled else "z", self.label
        try:
            with np.load(path) as file:
                held = dict(file)
        except (ValueError, BadZipFile) as error:
            raise UserError(f"{path} is no file of arrays; name one that --mode=latents wrote") from error
        latents, labels = held.get(name, np.empty(0)), held.get("labels", np.empty(0))
        if latents.shape[1:] != self.flat or number >= len(latents) or (label and len(labels) != len(latents)):
            raise UserError(
                f"{path} holds {name} of shape {latents.shape}, and number {number} of {('N', *self.flat)} is asked for; name a "
                f"file that --mode=latents made of this run with --tool.space={self.name}"
            )
        row = slice(number, number + 1)
        return Points(latents[row], {label: labels[row].astype(self.exp.spec[label].dtype)} if label else {})

    @property
    def flat(self) -> tuple[int, ...]:
        """The shape of one latent among Points."""
        return self.shape if self.styled else (int(np.prod(self.shape)),)

    # ------------------------------------------------------------------------------------------------------------------
    # Pictures

    def render(self, points: Points) -> np.ndarray:
        """uint8 [N, H, W, C]: those of drawn latents are the samples. Nothing but latents differs: noise stays as it is."""
        return to_uint8(self._run(self.name[0], points, self.picture))

    def picture(self, method: Any, w: Weights, latents: Array, cond: dict[str, Array]) -> Array:
        """Pure: latents [N, ...] -> pictures as the data are [N, H, W, C]."""
        latents = latents.reshape(-1, *self.shape)
        made = method.from_styles(w, latents) if self.styled else method.from_latents(w, latents, cond)
        return self.exp.show(w.frozen, made, cond)

    def _run(self, owner: str, points: Points, function: Callable) -> np.ndarray:
        """`function(method, weights, latents, cond)` in whole batches of samples, so that all have the same bits as these."""
        num, parts, step = len(points.latents), [], self.exp.feed.batch
        size = self.exp.spread(step)
        own = size // jax.process_count()
        mine = jax.process_index() * own + np.arange(own)

        def run(w: Weights, given: tuple, rng: Array) -> Array:
            latents, cond, settings = given
            cond = conditions.read(self.exp.spec, cond, size)
            return function(holding(self.exp.method, {k: told.part for k, told in settings.items()}), w, latents, cond)

        program = self.exp.jit(("latents", owner, size), run, self.exp.shared)
        for start in range(0, num, step):
            rows = np.minimum(start + mine, num - 1)
            z, cond = points.latents[rows].astype(np.float32), {k: v[rows] for k, v in points.cond.items()}
            placed = (
                parallel.put_batch(self.exp.mesh, {"latents": z})["latents"],
                parallel.put_batch(self.exp.mesh, cond),
            )
            made = jax.device_get(program(self.weights, (*placed, self.exp.settings), self.exp.root))
            parts.append(np.asarray(made)[: min(step, num - start)])
        return np.concatenate(parts)
