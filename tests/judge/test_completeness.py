"""A run has a value of every step; which steps those are follows from its flags and from what it loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.judge.completeness import unlogged_rows
from tasks.judge.run import Options, judge_run
from tasks.records.card import Card
from tasks.records.run import read_run
from tasks.util.files import read_json_object
from tests.fake_run import METRICS, card, write_golden, write_json, write_run


def lost(
    directory: Path, *, steps: tuple[int, int] | None = None, **changes: object
) -> list[tuple[str, int, str]]:
    """Of a run with these changes: name, first step and note of each row."""
    rows = unlogged_rows(read_run(write_run(directory, **changes)), steps)
    assert not any(row.passed for row in rows)
    return [(row.metric, row.first_step, row.note) for row in rows]


def without(*steps: int, metric: str = "lm loss"):
    return lambda name, step, value: None if name == metric and step in steps else value


def test_a_whole_run_has_no_such_row(tmp_path: Path) -> None:
    assert lost(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"phase1": card(change=without(*range(2, 100)))},
            ("phase 1: lm loss", 2, "phase 1 logged no step 2 and 97 more"),
        ),
        (
            {"phase1": card(51, 100, metrics=["lm loss"])},
            ("phase 1: lm loss", 1, "phase 1 logged no step 1 and 49 more"),
        ),
        (
            {"phase1": card(1, 99, metrics=["lm loss"])},
            ("phase 1: lm loss", 100, "phase 1 logged no step 100"),
        ),
        ({"phase2": card(51, change=without(77))}, ("phase 2: lm loss", 77, "phase 2 logged no step 77")),
        ({"phase2": card(52, metrics=["lm loss"])}, ("phase 2: lm loss", 51, "phase 2 logged no step 51")),
    ],
)
def test_a_hole_is_told(tmp_path: Path, changes: dict, found: tuple[str, int, str]) -> None:
    assert lost(tmp_path / "run", **changes) == [found]


def test_what_lies_outside_of_the_steps_asked_for_is_not_missed(tmp_path: Path) -> None:
    assert lost(tmp_path / "a", phase1=card(1, 60), test_type="regular", steps=(1, 60)) == []
    assert len(lost(tmp_path / "b", phase1=card(1, 60), test_type="regular", steps=(1, 61))) == len(METRICS)
    late = {"phase1": card(41, 100), "test_type": "regular"}
    assert lost(tmp_path / "c", steps=(41, 100), **late) == []
    assert len(lost(tmp_path / "d", steps=(40, 100), **late)) == len(METRICS)


def test_a_phase_that_ends_early_by_its_flags_is_whole(tmp_path: Path) -> None:
    flags = {"--exit-interval": 60}
    assert lost(tmp_path / "a", phase1=card(1, 60), phase2=card(51, 60), model_args=flags) == []
    assert lost(tmp_path / "b", phase1=card(1, 59), phase2=card(51, 60), model_args=flags) != []


def of_megatron_lm(directory: Path, phase1: Card, **flags: int) -> list[tuple[str, int]]:
    """Metric and first step of each row, of a run of Megatron-LM's loop with these flags."""
    args = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    run = write_run(directory, phase1=phase1, test_type="regular", model_args=args)
    write_json(run / "case.json", read_json_object(run / "case.json") | {"subject": "megatron-core-wheel"})
    return [(row.metric, row.first_step) for row in unlogged_rows(read_run(run))]


def test_of_megatron_lm_each_metric_is_missed_where_it_is_logged(tmp_path: Path) -> None:
    def logged(name: str, step: int, value: float) -> float | None:
        return value if step % (10 if name == "iteration-time" else 5) == 0 else None

    flags = {"log_interval": 10, "tensorboard_log_interval": 5}
    assert of_megatron_lm(tmp_path / "a", card(change=logged), **flags) == []
    more = {**flags, "tensorboard_log_interval": 1}
    names = [f"phase 1: {name}" for name in METRICS if name != "iteration-time"]
    assert of_megatron_lm(tmp_path / "b", card(change=logged), **more) == [(name, 1) for name in names]
    assert of_megatron_lm(tmp_path / "c", card(change=logged), **{**flags, "log_interval": 5}) == [
        ("phase 1: iteration-time", 5)
    ]


def test_without_an_interval_megatron_lm_logs_every_step_and_times_every_hundredth(tmp_path: Path) -> None:
    untimed = without(*range(1, 100), metric="iteration-time")
    assert of_megatron_lm(tmp_path / "a", card(change=untimed)) == []
    assert of_megatron_lm(tmp_path / "b", card(change=without(3))) == [("phase 1: lm loss", 3)]


def test_the_time_of_the_first_step_is_excused_for_megatron_lm_alone(tmp_path: Path) -> None:
    first = card(change=without(1, metric="iteration-time"))
    assert of_megatron_lm(tmp_path / "a", first, log_interval=1) == []
    assert [name for name, *_ in lost(tmp_path / "b", phase1=first)] == ["phase 1: iteration-time"]


def test_a_hole_fails_the_verdict_even_where_the_card_is_sparse(tmp_path: Path) -> None:
    write_golden(tmp_path, card(change=lambda name, step, value: value if step % 20 == 0 else None))
    run = write_run(tmp_path / "whole")
    assert judge_run(run, root=tmp_path).exit_code == 0
    run = write_run(tmp_path / "holes", phase1=card(change=without(21, 22, 23)))
    verdict = judge_run(run, root=tmp_path, options=Options())
    failing = [(row.comparison, row.metric) for row in verdict.rows if not row.passed]
    assert (verdict.exit_code, failing) == (1, [("restart", "phase 1: lm loss")])


def test_phase_1_is_not_sparse_for_its_restart(tmp_path: Path) -> None:
    write_golden(tmp_path, card(change=lambda name, step, value: value if step % 20 == 0 else None))
    run = write_run(
        tmp_path / "run", phase1=card(change=without(*(step for step in range(56, 100) if step % 20)))
    )
    failing = {
        (row.comparison, row.first_step) for row in judge_run(run, root=tmp_path).rows if not row.passed
    }
    assert failing == {("restart", 56), ("resume", 56)}
