"""A run directory -> images: a grid, an .npz and single files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxgen.core import parallel
from jaxgen.core.given import expand
from jaxgen.errors import UserError
from jaxgen.evaluation.retrieval import Matcher, best
from jaxgen.images import map_npz, save_grid, save_png, write_npz
from jaxgen.runs.cascade import Cascade, enlarging
from jaxgen.runs.experiment import Made
from jaxgen.runs.frozen import FrozenRun
from jaxgen.runs.trained import Labels, Prompts, Trained, texts
from jaxgen.runs.writers import say

SHOWN = 256  # pictures of a grid


def sample(
    workdir: str | Path,
    num: int = 64,
    out: str | Path = "",
    seed: int = 0,
    labels: Labels = (),
    weights: str = "ema",
    step: int = -1,
    files: bool = False,
    changes: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    prompt: Prompts = (),
    negative: str = "",
    best_of: int = 1,
    ranker: str | Path = "",
    cascade: Sequence[str | Path] = (),
) -> np.ndarray:
    """uint8 [num, H, W, C] from the newest checkpoint (or `step`'s), mapped from OUT.npz, to which they are streamed: any number
    takes the memory of one batch. (Hosts that do not write get none.)

    OUT.npz: `images` and what each was asked to show, labels with their names. OUT.png: a grid of the first 256. With `files`
    OUT/00000.png ...; such a folder must not be there yet. OUT is by default samples/STEP_seedSEED... in the run's directory:
    its name tells what made it.
    `weights`: ema, raw, the label of an average, or stdX for one reconstructed from the run's snapshots. `changes` to the
    run's config hold for these samples: another solver, another guide.
    `labels` (names or numbers) repeat over the samples; empty means 0, 1, ..., classes - 1, 0, ... Needs neither config file
    nor data, but where the run is told pictures (to restore, to enlarge): these are made of the held-out examples, and drawn
    before the samples; texts, likewise. `prompt`: texts that repeat over the samples; `negative`:
    one that they are guided away from. `asked`: values of other conditions by name. `best_of`: how many samples of each prompt are
    made, of which the contrastive run `ranker` chooses one. `cascade`: runs before this one, which enlarges what they make (held in
    memory); changes to tasks hold for all of them that have these, `negative` for all that can be guided, others for this one.
    """
    if best_of < 1:
        raise UserError(f"--best-of={best_of} must be at least 1")
    if ranker and best_of == 1:
        raise UserError(f"--ranker={ranker} chooses the best of several samples; say of how many (--best-of=16)")
    plain = Trained.open(workdir, step, changes)
    *before, trained = Cascade((*Cascade.open(cascade, changes).runs, plain)).against(negative).runs
    (choice,) = trained.choose([weights])
    prompt = texts(prompt)
    wanted = trained.asked(labels, prompt, **(asked or {}))
    label = trained.exp.spec.label
    called = [trained.exp.spec[label].called(int(i)) for i in wanted.get(label, ())]
    parts = [f"seed{seed}"] + [f"num{num}"] * (num != 64) + [choice.name] * (weights != "ema")
    parts += [f"cascade-{'+'.join(Path(run).name for run in cascade)}"] * bool(cascade)
    parts += [f"labels-{','.join(called)}"] * bool(called)
    parts += [f"prompt-{'+'.join(prompt)}"] * bool(prompt)
    parts += [f"best{best_of}"] * (best_of > 1)
    parts += [f"negative-{negative}"] * bool(negative)
    parts += [f"{k}-{np.asarray(v).tolist()}" for k, v in (asked or {}).items() if k != label]
    target = Path(expand(out)) if str(out) else trained.run.path / "samples" / plain.stem(*parts)
    target = target.with_suffix("") if target.suffix in (".png", ".npz") else target
    if files and target.exists():
        raise UserError(f"--files: {target} is there already; delete it, or name another --out")
    if best_of > 1:
        if not prompt:
            raise UserError(f"--best-of={best_of} chooses by a text, and none is asked for; name one (--prompt=TEXT)")
        matcher = Matcher.of(FrozenRun(str(ranker)), trained.exp, "--ranker")
        wanted = {k: np.repeat(v, best_of, 0) for k, v in wanted.items()}
    if before:
        told = [[one for one in several for _ in range(best_of)] for several in (called, prompt)]
        small = Cascade(tuple(before)).sample(best_of * num, *told, seed)
        wanted |= enlarging(trained.exp, small, str(workdir), seed)
    made = trained.samples(best_of * num, wanted, seed, choice)
    if best_of > 1:
        made = best(made, trained.exp.words(prompt), best_of, matcher)
    called = called or prompt
    if not parallel.is_lead():
        return np.zeros((sum(0 for _ in made), *trained.exp.data.shape), np.uint8)  # all hosts take part
    what = f"{num:,} samples of step {trained.at} ({choice}, seed {seed})"
    say(f"making {what}")
    return Output(trained, target, num, called, files, what).write(made)


@dataclass(frozen=True)
class Output:
    """Where samples go: PATH.npz, PATH.png and, with `files`, the folder PATH."""

    trained: Trained
    path: Path  # its name may hold dots: std0.07
    num: int
    called: list[str]  # the names of the labels asked for, or the prompts
    files: bool
    what: str  # in words

    def beside(self, end: str) -> Path:
        """The path with an end."""
        return self.path.with_name(self.path.name + end)

    def write(self, made: Iterator[Made]) -> np.ndarray:
        """All of it, in one pass over the batches."""
        spec, shown = self.trained.exp.spec, []
        names = {"label_names": np.array(spec[spec.label].names)} if spec.label else {}
        try:
            write_npz(self.beside(".npz"), self.num, self._stored(made, shown), **names)
            if self.files:
                self.beside(".part").rename(self.path)
        finally:
            shutil.rmtree(self.beside(".part"), ignore_errors=True)
        columns = self._draw(Made.joined(shown))
        say(f"{self.what}: {self.beside('.png')}" + (f" (the first {SHOWN})" if self.num > SHOWN else ""))
        if columns:
            say(f"columns: {', '.join(columns)}")
        say(f"arrays: {self.beside('.npz')}" + (f"; files: {self.path}/00000.png ..." if self.files else ""))
        return map_npz(self.beside(".npz"), "images")

    def _stored(self, batches: Iterator[Made], shown: list[Made]) -> Iterator[dict[str, np.ndarray]]:
        """What the .npz holds of every batch; the files of its images are written, and `shown` gets what the grid needs."""
        exp, at = self.trained.exp, 0
        shutil.rmtree(self.beside(".part"), ignore_errors=True)
        with tqdm(desc="sampling", total=self.num, unit="img", disable=None, leave=False) as bar:
            for made in batches:
                if at < SHOWN:
                    shown.append(made.first(SHOWN - at))
                for i, image in enumerate(made.images if self.files else (), at):
                    save_png(self.beside(".part") / f"{i:05d}.png", image)
                label = exp.spec.label
                told = {"labels" if k == label else k: v for k, v in made.cond.items() if k in (label, *exp.from_data)}
                yield {"images": made.images, **told}
                at += len(made.images)
                bar.update(len(made.images))

    def _draw(self, made: Made) -> list[str]:
        """The grid; where labels come in turn, a column each under its name -> these names."""
        exp = self.trained.exp
        pictures, columns = exp.sheet(made)
        turn = self.called or [exp.spec[exp.spec.label].called(i) for i in range(exp.spec.classes)]
        captions: list[str] = []
        if not columns and 0 < len(turn) <= 16:
            captions = turn * max(1, round(len(pictures) ** 0.5 / len(turn)))
        captions = captions[: len(pictures)]
        save_grid(self.beside(".png"), pictures, min(columns or len(captions), len(pictures)), captions)
        return captions
