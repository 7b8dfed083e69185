"""What the logged figures of a run say is wrong with it: rules that speak once an episode, and name the setting to change.

They look at what is logged anyway, on the host: a step costs nothing more. `config.watch=()` turns them off.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from ml_collections import ConfigDict

from jaxgen.config.advice import gentler_game, louder, slower_disc
from jaxgen.config.registry import build
from jaxgen.core.ranges import Count, Inside, NonNegative, Positive, Range

Past = dict[str, list[tuple[int, float]]]  # "train/r_t" -> (step, value), oldest first


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A sign of illness in the figures of a run; silent where they are not logged."""

    intervals: Count = 3  # logged intervals in a row that show it

    needs: ClassVar[tuple[str, ...]] = ("gen", "disc", "loss")  # of its method: a Gan has them

    @abstractmethod
    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """What is wrong and what to change; "" while all is well. base: "base_" where the players are LAPGAN's for the base."""

    def last(self, past: Past, name: str) -> list[float]:
        """The last `intervals` values of a figure of training; none where there are fewer."""
        found = past.get(f"train/{name}", [])
        return [value for _, value in found[-self.intervals :]] if len(found) >= self.intervals else []

    def game(self, config: ConfigDict) -> Any:
        """What the players play: it knows which logit is undecided, if any is."""
        return build("gan_loss", config.method.loss.to_dict(), where="config.method.loss")


@dataclass(frozen=True, kw_only=True)
class DiscWins(Rule):
    """D makes no mistakes, so that its gradients tell G little."""

    below: Positive = 0.05  # the loss of D on real and generated images

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """Both parts of D's loss together are next to nothing. Those of a critic without an undecided answer have no floor."""
        both = [self.last(past, f"d_loss_{kind}") for kind in ("real", "fake")]
        losses = [a + b for a, b in zip(*both, strict=True)]
        game = self.game(config)
        if not losses or max(losses) >= self.below or (game.middle is None and not game.relative):
            return ""
        return f"D wins: its loss is {losses[-1]:.2g}, below {self.below:g}, so that G learns little; {slower_disc(config, base)}"


@dataclass(frozen=True, kw_only=True)
class ByHeart(Rule):
    """D calls nearly all training images real without being shown changed ones."""

    intervals: Count = 5
    above: Annotated[float, Range(above=0, below=1)] = 0.9  # r_t, the mean sign of D's logits

    needs: ClassVar[tuple[str, ...]] = ("augment", "loss")

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """r_t is high; where D calls held-out images real as well, it has learnt what is real, not which ones it was shown."""
        r_t, held = self.last(past, "r_t"), past.get("eval/d_real", [])
        middle = self.game(config).middle
        if not r_t or min(r_t) <= self.above or middle is None or (held and held[-1][1] > middle):
            return ""
        if config.method.augment.name != "none":
            return ""
        return (
            f"D knows its images by heart: r_t is {r_t[-1]:.2f}, above {self.above:g}; more images, or anew in another "
            "--workdir with --config.method.augment=ada"
        )


@dataclass(frozen=True, kw_only=True)
class AugmentFull(Rule):
    """ADA's probability has reached 1, where what it changes leaks into the samples."""

    intervals: Count = 1

    needs: ClassVar[tuple[str, ...]] = ("augment",)

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """p is 1."""
        p = self.last(past, "augment_p")
        if not p or min(p) < 1:
            return ""
        return (
            "p is 1, so that augmentations leak into samples: these are too few images; anew in another --workdir with "
            "--config.method.augment.pipe=bg (places alone), or with \"--config.data.augment=('flip',)\" where a mirrored image "
            "is one too"
        )


@dataclass(frozen=True, kw_only=True)
class Collapse(Rule):
    """Generated images are all alike."""

    below: Positive = 0.3  # the deviation of generated images over that of real ones
    grace: Count = 20  # intervals that a generator may take to become varied

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """`spread` fell, or never rose."""
        spread, whole = self.last(past, "spread"), past.get("train/spread", [])
        begun = len(whole) >= self.grace or any(value >= self.below for _, value in whole[: self.grace])
        if not spread or max(spread) >= self.below or not begun:
            return ""
        return f"G collapses: its images vary {spread[-1]:.2f} times as much as real ones; {louder(config)}"


@dataclass(frozen=True, kw_only=True)
class Swing(Rule):
    """D's answers to generated images swing through the undecided one, ever wider."""

    intervals: Count = 12
    growth: Positive = 1.5  # of the second half's widest swing over that of the first
    crossings: Count = 4  # of the undecided logit
    least: NonNegative = 1.0  # widest swing of the second half, in logits

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """The game goes round in circles that grow."""
        middle, half = self.game(config).middle, self.intervals // 2
        logits = [] if middle is None else [logit - middle for logit in self.last(past, "d_fake")]
        if sum(a * b < 0 for a, b in pairwise(logits)) < self.crossings:
            return ""
        before, after = (max(map(abs, part)) for part in (logits[:half], logits[half:]))
        if after < max(self.growth * before, self.least):
            return ""
        return f"the game swings: D(fake) reached {before:.1f}, then {after:.1f}; {gentler_game(config, base)}"


@dataclass(frozen=True, kw_only=True)
class PastBest(Rule):
    """FID was best long ago and rises."""

    intervals: Count = 2
    ago: Inside = 0.2  # share of the steps so far since the best
    worse: NonNegative = 0.05  # than the best, as a share of it

    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """Of the first FID that is evaluated."""
        fids = next((values for name, values in past.items() if name.startswith("eval/fid")), [])
        if len(fids) < 2 + self.intervals:
            return ""
        step, now = fids[-1]
        at, best = min(fids, key=lambda one: one[1])
        rising = all(a <= b for (_, a), (_, b) in pairwise(fids[-self.intervals :]))
        if at > (1 - self.ago) * step or now < (1 + self.worse) * best or not rising:
            return ""
        told = f"FID was best at step {at}, {best:.4g}, and is {now:.4g}: stop here"
        saved = min(round(at / config.save_every), step // config.save_every) * config.save_every
        if not saved:
            return f"{told}; no checkpoint is near that step: --config.save_every={at} in another run"
        return (
            f"{told}; the nearest checkpoint, where config.keep={config.keep} covers it: --mode=sample --step={saved}"
        )


@dataclass(frozen=True, kw_only=True)
class Inverts(Rule):
    """What is made is light where its original is dark: a cycle may exchange colours and lose nothing."""

    intervals: Count = 5

    needs: ClassVar[tuple[str, ...]] = ("cycle", "identity")

    def __call__(self, past: Past, config: ConfigDict, base: str) -> str:
        """The correlation of brightness between pictures and what is made of them is negative."""
        corr = self.last(past, "corr")
        if not corr or max(corr) >= 0:
            return ""
        more = f"method.identity={max(2 * config.method.identity, 0.5):g}"
        return (
            f"colours may be inverted: what is made and its original correlate by {corr[-1]:.2f}; anew in another --workdir with "
            f"--config.{more} or another --config.seed={config.seed + 1}, or where that is wanted --config.watch=()"
        )


LEVEL = re.compile(r"(.+)_(\d+x\d+)")  # a figure of a level of LAPGAN: train/spread_8x8
KIND = re.compile(r"(.+)_(image|seen)")  # of a kind of pictures of CycleGAN: train/d_loss_real_image


class Watch:
    """The rules of a run, and which of them have spoken of an episode that goes on. LAPGAN plays a game at every level."""

    def __init__(self, config: ConfigDict) -> None:
        rules: list[Rule] = [build("watch", spec, where=f"config.watch[{i}]") for i, spec in enumerate(config.watch)]
        self.rules = [rule for rule in rules if all(key in config.method for key in rule.needs)]
        self.config, self.sick = config, set[tuple[Rule, str]]()
        self.past: dict[str, Past] = {}  # by level or kind, "" where there are none
        self.part = LEVEL if "levels" in config.method else KIND if "cycle" in config.method else None

    def recall(self, records: Iterable[Mapping[str, float]]) -> None:
        """Look at what was logged before, silently: a resumed run says nothing twice."""
        for record in records if self.rules else ():
            self(int(record["step"]), {k: v for k, v in record.items() if k != "step"})

    def __call__(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """What is to be said of the figures logged at a step."""
        if not self.rules:
            return []
        for name, value in figures.items():
            found = self.part.fullmatch(name) if self.part else None
            figure, level = found.groups() if found else (name, "")
            self.past.setdefault(level, Past()).setdefault(figure, []).append((step, float(value)))
        levels = [level for level in self.past if level and self.part is LEVEL]
        coarsest = min(levels, key=lambda level: [int(side) for side in level.split("x")], default="")
        told = {}
        for level, past in self.past.items():
            base = "base_" if level and level == coarsest else ""
            where = f"at {level} " if level in levels else f"of {level!r}: " if level else ""
            told |= {(rule, level): where + text for rule in self.rules if (text := rule(past, self.config, base))}
        new = [text for key, text in told.items() if key not in self.sick]
        self.sick = set(told)
        return new
