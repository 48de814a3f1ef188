"""The benchmark against Megatron-LM: what is measured, when nothing is compared, when it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import against_megatron_lm as benchmark
from tasks.records.card import Card, metric_from
from tasks.util.exits import TrainingFailed
from tests.event_files import event, write_events


def card(**changed: list[float]) -> Card:
    values = {name: [1.0, 2.0, 3.0] for name in (*benchmark.EQUAL, benchmark.NEARLY_EQUAL)} | changed
    return Card(metrics={name: metric_from(range(1, len(row) + 1), row) for name, row in values.items()})


def trial(*, first_step_s: float = 1.0, wall_s: float = 1.0, iteration_s: float = 1.0) -> benchmark.Trial:
    return benchmark.Trial(first_step_s=first_step_s, wall_s=wall_s, iteration_s=iteration_s, values=card())


def judged(
    ours: list[benchmark.Trial], theirs: list[benchmark.Trial]
) -> dict[tuple[str, str], benchmark.Row]:
    trials = {benchmark.OURS: ours, benchmark.TORCHRUN: theirs, benchmark.LAUNCHER: theirs}
    rows = benchmark.rows(trials, target_step=1.0, target_start=0.5)
    return {(row.measure, row.opponent): row for row in rows}


def test_times_are_from_the_command_and_from_log_to_log(tmp_path: Path) -> None:
    records = []
    for step in range(1, 11):
        records.append(event("lm loss", step, 2.0, time=100.0 + step + (3.0 if step == 10 else 0.0)))
        records.append(event("iteration-time", step, 9.0 if step in (2, 10) else 0.5, time=0.0))
    write_events(tmp_path, "a", *records)
    measured = benchmark.measured(tmp_path, 90.0, 10)
    assert measured.first_step_s == 11.0
    assert measured.wall_s == (113.0 - 105.0) / 5, "a pause between two steps counts"
    assert measured.iteration_s == 0.5


def test_a_training_that_lost_a_step_is_not_measured(tmp_path: Path) -> None:
    write_events(tmp_path, "a", *(event("lm loss", step, 2.0, time=step) for step in (1, 2, 4)))
    with pytest.raises(TrainingFailed, match="3 steps of 4"):
        benchmark.measured(tmp_path, 0.0, 4)


def test_the_same_training_has_no_differences() -> None:
    near = [1.0, 2.0, float(np.nextafter(np.float32(3.0), np.float32(4.0)))]
    assert benchmark.differences(card(), card()) == []
    assert benchmark.differences(card(), card(**{"params-norm": near})) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lm loss": [1.0, float(np.nextafter(2.0, 3.0)), 3.0]}, "lm loss: 1 steps differ, the first is 2"),
        ({"num-zeros": [1.0, 2.0, float("nan")]}, "num-zeros: 1 steps differ, the first is 3"),
        ({"grad-norm": [1.0, 2.0]}, "grad-norm: other steps"),
        ({"params-norm": [1.0, 2.0, 3.1]}, "params-norm: 1 steps differ"),
    ],
)
def test_a_last_bit_apart_is_another_training(changed: dict[str, list[float]], told: str) -> None:
    (difference,) = benchmark.differences(card(), card(**changed))
    assert difference.startswith(told)


def test_what_only_one_side_logs_is_a_difference() -> None:
    less = card()
    del less.metrics["grad-norm"]
    assert benchmark.differences(card(), less) == ["grad-norm: not logged by both"]


def test_a_step_slower_than_theirs_misses_against_both() -> None:
    rows = judged([trial(wall_s=1.01)], [trial()])
    missed = {key for key, row in rows.items() if not row.passed}
    assert missed == {
        ("wall seconds a step", benchmark.TORCHRUN),
        ("wall seconds a step", benchmark.LAUNCHER),
        ("command to first step", benchmark.TORCHRUN),
    }


def test_the_start_is_judged_against_torchrun_alone() -> None:
    rows = judged([trial(first_step_s=0.5)], [trial()])
    assert all(row.passed for row in rows.values())
    assert rows["command to first step", benchmark.LAUNCHER].target is None


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    ours = [trial(iteration_s=seconds) for seconds in (1.0, 4.0, 9.0)]
    theirs = [trial(iteration_s=seconds) for seconds in (2.0, 4.0, 10.0)]
    row = judged(ours, theirs)["iteration-time", benchmark.TORCHRUN]
    assert row.ratios == (0.5, 1.0, 0.9)
    assert row.ratio == 0.9
    assert "| 0.90 | 0.50, 1.00, 0.90 | 1.00 | met |" in benchmark.table([row])


@pytest.mark.parametrize("words", [["--steps", "5"], ["--steps", "50"], ["--rounds", "0"]])
def test_too_few_steps_or_a_save_among_them_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.arguments(["--megatron-lm", "mine", *words])
