"""What a run tells: console progress, metrics.jsonl, TensorBoard events, sample grids and a loss plot."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxgen.core import parallel
from jaxgen.images import grid, save_grid

Scalars = Mapping[str, float]


def write_text(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def say(text: str) -> None:
    """Print for the person who waits, without breaking a bar; one host speaks for all."""
    if parallel.is_lead():
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `2 h 5 min`, `12 days`."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if hours < 48 else f"{hours / 24:,.0f} days"


def readable(value: float) -> str:
    """A figure of four digits, large ones whole: `0.1298`, `2,207`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The records of metrics.jsonl, oldest first; a half-written last line is left out."""
    path = Path(workdir) / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class Writers:
    """All sinks of one run directory. With `active=False` (hosts other than the first) every call is silent."""

    def __init__(self, workdir: str | Path, start: int, total: int, active: bool = True) -> None:
        self.workdir, self.active, self.total = Path(workdir), active, total
        if not active:
            return
        self.written = self.drawn = self._forget_after(start)  # records, and of these in loss.png
        self.jsonl = (self.workdir / "metrics.jsonl").open("a")
        self.live = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, disable=not self.live)
        self.first, self.spoke = start, time.monotonic()
        self.missed: set[str] = set()  # what could not be written, and was told

    @cached_property
    def events(self) -> Any:
        """The TensorBoard writer: made when the first figure is there, as importing it takes half a second."""
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=self.first, flush_secs=10)
        # Its thread would end at a full disk, and the run would then wait for it for ever.
        file = writer.file_writer.event_writer._ev_writer
        file.write_event, file.flush = (self.spared("tensorboard", f) for f in (file.write_event, file.flush))
        return writer

    def spared(self, what: str, write: Callable[..., Any]) -> Callable[..., None]:
        """`write`, but a disk that is full (or gone) is told once: figures and pictures are no reason to end a run."""

        def attempt(*args: Any, **options: Any) -> None:
            try:
                write(*args, **options)
            except OSError as error:
                if what not in self.missed:
                    self.say(
                        f"warning: {self.workdir}/{what} could not be written ({error.strerror or error}); training goes on"
                    )
                self.missed.add(what)

        return attempt

    def _forget_after(self, start: int) -> int:
        """A resumed run repeats the steps after its checkpoint: their old records go, and half a line -> how many stay."""
        path = self.workdir / "metrics.jsonl"
        kept = [json.dumps(r) + "\n" for r in read_metrics(self.workdir) if r["step"] <= start]
        if path.is_file() and path.read_text() != "".join(kept):
            write_text(path, "".join(kept))
        return len(kept)

    def progress(self, step: int) -> None:
        """Move the bar."""
        if self.active and self.live:
            self.bar.update(step - self.bar.n)

    def scalars(self, step: int, values: Scalars, prefix: str = "train") -> None:
        """One record: {"step": ..., "train/loss": ..., ...}."""
        if not self.active:
            return
        named = {f"{prefix}/{k}": float(v) for k, v in values.items()}
        self.jsonl.write(json.dumps({"step": step, **named}, allow_nan=False) + "\n")
        self.spared("metrics.jsonl", self.jsonl.flush)()  # what stays in its buffer is written once there is room
        self.written += 1
        self.spared("tensorboard", lambda: [self.events.add_scalar(k, v, step) for k, v in named.items()])()

    def console(self, step: int, values: Scalars, left: float | None = None) -> None:
        """The line people watch: loss, images/s, seconds left. A terminal shows it on the bar, a log gets lines."""
        if not self.active:
            return
        shown = {k: readable(v) for k, v in values.items()}
        if self.live:
            self.bar.set_postfix(shown)
            return
        end = f"  left {duration(left)}" if left else ""
        self.say(f"step {step}/{self.total}  {'  '.join(f'{k} {v}' for k, v in shown.items())}{end}")

    def silent(self) -> float:
        """Seconds since the last word; 0 where a bar speaks."""
        return 0.0 if not self.active or self.live else time.monotonic() - self.spoke

    def say(self, text: str) -> None:
        """Print without breaking the bar."""
        if self.active:
            say(text)
            self.spoke = time.monotonic()

    def image(self, step: int, name: str, images: np.ndarray, columns: int = 0, captions: Sequence[str] = ()) -> None:
        """A grid as samples/<step>_<name>.png and in TensorBoard."""
        if not self.active:
            return
        path = self.workdir / "samples" / f"{step:07d}_{name}.png"
        self.spared("samples", save_grid)(path, images, columns, captions)
        picture = grid(images, columns)
        self.spared("tensorboard", lambda: self.events.add_image(name, picture, step, dataformats="HWC"))()

    def draw(self, more: float = 0.1) -> None:
        """loss.png as of now, where there is that share more to see: so all drawings of a run together cost as its length does."""
        if self.active and self.written > (1 + more) * self.drawn:
            self.spared("loss.png", plot)(self.workdir)
            self.drawn = self.written

    def close(self) -> None:
        """Flush, and draw the curves."""
        if not self.active:
            return
        self.bar.close()
        self.spared("metrics.jsonl", self.jsonl.close)()
        if "events" in vars(self):
            self.spared("tensorboard", self.events.close)()
        self.draw(more=0)


def plot(workdir: str | Path) -> None:
    """loss.png: every curve of metrics.jsonl over steps, training and held-out in the same panel; one point is a dot."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in read_metrics(workdir):
        for name, value in record.items():
            if name != "step" and not name.endswith("images_per_s") and math.isfinite(value):
                curves.setdefault(name, []).append((record["step"], value))
    panels = sorted({name.split("/", 1)[1] for name in curves})
    if not panels:
        return
    figure, axes_of = _panels(len(panels))
    for i, panel in enumerate(panels):
        axes = axes_of(i, panel, "step")
        for name in sorted(n for n in curves if n.split("/", 1)[1] == panel):
            lone = "." if len(curves[name]) == 1 else ""
            axes.plot(*zip(*curves[name], strict=True), label=name.split("/")[0], linewidth=1, marker=lone)
        axes.legend(fontsize=7)
    _save(figure, Path(workdir) / "loss.png")


def plot_sweep(path: Path, names: list[str], rows: dict[str, list[float]], marks: dict[str, int]) -> None:
    """Every metric over averages; widths (stdX) on a logarithmic axis, the best (index; -1: none) with a ring."""
    widths = all(name.startswith("std") for name in names)
    figure, axes_of = _panels(len(rows))
    for i, (metric, values) in enumerate(rows.items()):
        axes = axes_of(i, metric, "relative width of the average (std)" if widths else "average")
        x = [float(name[3:]) for name in names] if widths else list(range(len(names)))
        order = sorted(range(len(x)), key=x.__getitem__)
        axes.plot([x[j] for j in order], [values[j] for j in order], marker="o", markersize=3, linewidth=1)
        if marks[metric] >= 0:
            at = marks[metric]
            axes.plot(x[at], values[at], "o", markersize=9, fillstyle="none", color="tab:red")
        if widths:
            axes.set_xscale("log")
        axes.set_xticks(x, [name[3:] if widths else name for name in names])
        axes.minorticks_off()
    _save(figure, path)


def _panels(num: int) -> tuple[Any, Callable[[int, str, str], Any]]:
    """A figure of so many panels, and (index, title, x label) -> axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, num)
    rows = -(-num // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)

    def axes_of(index: int, title: str, x: str) -> Any:
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel(x, fontsize=7)
        return axes

    return figure, axes_of


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    part.replace(path)
