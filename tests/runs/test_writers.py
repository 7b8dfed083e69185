"""Curves and words of a run."""

import json

import pytest

from jaxgen.runs import writers


def drawn(tmp_path, records, monkeypatch):
    """{panel: {line: (points, marker)}} of the curves that `plot` draws of those records."""
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    seen = {}
    monkeypatch.setattr(writers, "_save", lambda figure, path: seen.update(figure=figure))
    writers.plot(tmp_path)
    panels = seen["figure"].axes if seen else []
    return {
        axes.get_title(): {line.get_label(): (len(line.get_xdata()), line.get_marker()) for line in axes.lines}
        for axes in panels
    }


def test_one_point_is_a_dot_and_no_panel_is_empty(tmp_path, monkeypatch):
    nan = float("nan")
    records = [
        {"step": 1, "train/loss": 2.0, "train/images_per_s": 9.0, "train/gone": nan},
        {"step": 2, "train/loss": 1.0, "train/gone": nan, "eval/loss": 1.5},
    ]
    panels = drawn(tmp_path, records, monkeypatch)
    assert list(panels) == ["loss"]
    assert panels["loss"]["train"][0] == 2 and panels["loss"]["eval"] == (1, ".")


def test_curves_are_drawn_where_there_is_more_to_see_and_at_the_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(writers, "plot", lambda path: drawn.append(len(writers.read_metrics(path))))
    run = writers.Writers(tmp_path, 0, 400)
    for step in range(400):
        run.scalars(step, {"loss": 1.0})
        run.draw()
    run.close()
    assert drawn[:3] == [1, 2, 3] and drawn[-1] == 400
    assert sum(drawn) < 12 * 400  # all drawings together: as many records as there are, times a constant


def test_nothing_to_draw_draws_nothing(tmp_path, monkeypatch):
    assert drawn(tmp_path, [{"step": 1, "train/images_per_s": 3.0}], monkeypatch) == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (48 * 3600, "2 days"),
        (9.3e7, "1,076 days"),
    ],
)
def test_durations_are_read_at_once(seconds, words):
    assert writers.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.12981, "0.1298"), (2207.4, "2,207"), (1e-6, "1e-06"), (float("inf"), "inf")]
)
def test_figures_are_read_at_once(value, words):
    assert writers.readable(value) == words
