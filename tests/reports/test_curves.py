"""curves.png: which series are drawn, their differences, and that it draws whatever there is."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tasks.judge.run import judge_pair, judge_run
from tasks.records.card import metric_from
from tasks.reports.curves import _draw_metric, _draw_residuals, draw, residuals, series_of
from tests.fake_run import card, value, write_golden, write_run


def picture(verdict):
    import matplotlib.image

    return matplotlib.image.imread(io.BytesIO(draw(verdict)))


def count(pixels, colour):
    wanted = np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)]) / 255
    return int((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.2).sum())


def test_series_of_a_run_and_of_two_cards(tmp_path):
    golden = write_golden(tmp_path)
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    series = series_of(verdict, "lm loss")
    assert {label: (metric.start_step, metric.end_step) for label, metric in series.items()} == {
        "golden": (1, 100),
        "phase 1": (1, 100),
        "phase 2": (51, 100),
    }
    assert list(series_of(judge_pair(golden, golden), "lm loss")) == ["golden", "actual"]
    assert series_of(verdict, "unknown") == {}


def test_residuals_are_at_common_steps():
    steps, differences = residuals(
        metric_from([1, 2, 3], [1.0, 2.0, float("nan")]), metric_from([2, 3, 4], [2.5, 1.0, 1.0])
    )
    assert steps.tolist() == [2, 3]
    assert differences[0] == 0.5
    assert np.isnan(differences[1])


def test_first_difference_is_marked_only_where_there_is_one(tmp_path):
    write_golden(tmp_path)
    equal = picture(judge_run(write_run(tmp_path / "a"), root=tmp_path))
    changed = card(
        51, change=lambda name, step, number: number + 1 if (name, step) == ("lm loss", 60) else number
    )
    differing = picture(judge_run(write_run(tmp_path / "b", phase2=changed), root=tmp_path))
    assert count(equal, "#CC0033") == 0
    assert count(differing, "#CC0033") > 300, "no line through both panels"
    assert count(equal, "#009E73") > 50, "the restart is not marked"


@pytest.mark.parametrize("what", ["no golden card", "no phase 2", "nan", "one step"])
def test_draws_what_there_is(tmp_path, what):
    run = {}
    if what != "no golden card":
        write_golden(tmp_path)
    if what == "no phase 2":
        run = {"test_type": "regular"}
    if what == "nan":
        run = {"phase1": card(change=lambda name, step, _: float("nan") if step > 9 else value(name, step))}
    if what == "one step":
        run = {"phase1": card(1, 1), "test_type": "regular"}
    pixels = picture(judge_run(write_run(tmp_path / "run", **run), root=tmp_path))
    assert min(pixels.shape[:2]) > 300


@pytest.mark.parametrize(("off", "scaled"), [(0.0, False), (1.0, True), (float("nan"), True)])
def test_an_axis_of_differences_has_a_scale_only_where_something_differs(off, scaled):
    from matplotlib.figure import Figure

    golden = metric_from(range(1, 11), [2.0] * 10)
    actual = metric_from(range(1, 11), [2.0] * 9 + [2.0 + off])
    axes = Figure().add_subplot()
    _draw_residuals(axes, {"golden": golden, "phase 1": actual}, {"phase 1": {}})
    assert (axes.get_yticks().tolist() != [0.0]) is scaled


def test_bytes_are_told_in_multiples(tmp_path):
    from matplotlib.figure import Figure

    write_golden(tmp_path)
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    for name, in_bytes in (("mem-allocated-bytes", True), ("iteration-time", False)):
        above, below = Figure().subplots(2)
        _draw_metric((above, below), verdict, name)
        for axes in (above, below):
            assert (axes.yaxis.get_major_formatter()(4e8) == "400 MB") is in_bytes
