"""Two runs step by step: equal, parted, and nothing in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import same_steps
from tasks.records.card import metric_from
from tasks.util.exits import UsageError
from tests.fake_run import card, write_run


def run(directory: Path, first: int = 1, last: int = 100, *, off_at: int | None = None) -> str:
    def changed(name: str, step: int, value: float) -> float:
        return value + 1.0 if (name, step) == ("grad-norm", off_at) else value

    values = card(first, last, change=changed)
    for name in ("params-norm", "learning-rate"):
        values.metrics[name] = metric_from(range(first, last + 1), [0.5] * (last + 1 - first))
    return str(write_run(directory, phase1=values))


def test_equal_as_far_as_both_go(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert same_steps.main([run(tmp_path / "a"), run(tmp_path / "b", 1, 20)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "lm loss: 20 of 20 common steps equal"


def test_the_first_step_that_parts_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert same_steps.main([run(tmp_path / "a"), run(tmp_path / "b", off_at=37)]) == 1
    assert "grad-norm: 99 of 100 common steps equal; step 37: " in capsys.readouterr().out


def test_nothing_in_common_is_not_equal(tmp_path: Path) -> None:
    assert same_steps.main([run(tmp_path / "a", 1, 20), run(tmp_path / "b", 21, 40)]) == 1


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        same_steps.main([run(tmp_path / "a"), str(tmp_path / "nowhere")])
