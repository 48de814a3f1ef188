"""Facts of each attempt of a phase, from what its ranks leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.records.attempts import begin_line, evidence, evidence_folder, processes, records
from tasks.util.exits import TrainingFailed
from tests.fake_run import card


def begun(directory: Path, *attempts: int, ranks: int = 2) -> None:
    """Logs of ranks that began these attempts; the process id tells both."""
    for rank in range(ranks):
        lines = [f"{begin_line(rank, attempt, 100 * attempt + rank)}\nsome words\n" for attempt in attempts]
        (directory / f"rank{rank}.log").write_text("".join(lines))


def recorded(directory: Path, attempt: int, name: str, content: dict, ranks: int = 2) -> None:
    folder = evidence_folder(directory, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(ranks):
        (folder / f"{name}_rank{rank}.json").write_text(json.dumps(content))


def test_processes_are_read_from_the_logs(tmp_path: Path) -> None:
    assert processes(tmp_path) == {}
    begun(tmp_path, 0, 1)
    assert processes(tmp_path) == {0: {0: 0, 1: 1}, 1: {0: 100, 1: 101}}


@pytest.mark.parametrize("late", [0, 1])
def test_attempts_are_in_their_order_though_a_rank_never_began_the_first(tmp_path: Path, late: int) -> None:
    begun(tmp_path, 0, 1)
    (tmp_path / f"rank{late}.log").write_text(begin_line(late, 1, 100 + late))
    assert list(processes(tmp_path)) == [0, 1]


def test_the_seconds_of_an_attempt_are_those_of_its_slowest_rank(tmp_path: Path) -> None:
    for rank, content in enumerate(({"load": 1.5, "build": 1.0}, {"load": 0.5, "build": 2.0})):
        folder = evidence_folder(tmp_path, 0)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seconds_0000100_rank{rank}.json").write_text(json.dumps(content))
    assert evidence(folder, 2)["seconds"] == {"load": 1.5, "build": 2.0}


def test_each_attempt_has_its_own_record(tmp_path: Path) -> None:
    begun(tmp_path, 0, 1)
    recorded(tmp_path, 0, "saved_0000050", {"rng": "a"})
    recorded(tmp_path, 1, "loaded_0000050", {"rng": "b"})
    recorded(tmp_path, 1, "seconds_0000100", {"load": 1.5})
    first, second = records(tmp_path, {0: card(1, 74), 1: card(51, 100)}, 2)
    assert first["processes"] == {"0": 0, "1": 1}
    assert (first["steps"], second["steps"]) == ([1, 74], [51, 100])
    assert (first["loaded_iteration"], second["loaded_iteration"]) == (None, 50)
    assert first["state"] == {"50": {"0": {"rng": "a"}, "1": {"rng": "a"}}}
    assert second["state"] == {"50": {"0": {"rng": "b"}, "1": {"rng": "b"}}}
    assert second["seconds"] == {"load": 1.5}


def test_an_attempt_that_logged_nothing_has_no_steps(tmp_path: Path) -> None:
    begun(tmp_path, 0, 1)
    first, _ = records(tmp_path, {1: card(1, 10)}, 2)
    assert first["steps"] is None


def test_a_phase_without_logs_is_no_phase(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="no rank wrote when it began"):
        records(tmp_path, {}, 2)


def test_evidence_of_fewer_ranks_is_no_evidence(tmp_path: Path) -> None:
    recorded(tmp_path, 0, "saved_0000025", {}, ranks=8)
    recorded(tmp_path, 0, "saved_0000050", {}, ranks=7)
    with pytest.raises(TrainingFailed, match="7 of 8 ranks"):
        evidence(evidence_folder(tmp_path, 0), 8)
    # a killed attempt may have been killed while its ranks wrote
    assert list(evidence(evidence_folder(tmp_path, 0), 8, whole=False)["state"]) == ["25"]


def test_only_the_attempt_that_came_to_its_end_must_be_whole(tmp_path: Path) -> None:
    begun(tmp_path, 0, 1)
    recorded(tmp_path, 0, "saved_0000050", {}, ranks=1)
    recorded(tmp_path, 1, "saved_0000050", {})
    assert [one["state"] for one in records(tmp_path, {}, 2)] == [{}, {"50": {"0": {}, "1": {}}}]
    recorded(tmp_path, 1, "saved_0000100", {}, ranks=1)
    with pytest.raises(TrainingFailed, match="1 of 2 ranks"):
        records(tmp_path, {}, 2)
