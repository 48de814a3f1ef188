"""The benchmark of what overlap hides: its medians and shares, and when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import overlap_share as benchmark
from tasks.records.card import Card, metric_from
from tasks.util.exits import CannotRun, TrainingFailed

STEPS = range(1, 11)


def card(step_s: float = 0.2, hidden_s: float = 0.03, exposed_s: float = 0.01, loss: float = 5.0) -> Card:
    """Ten steps; those of the warm-up are far slower."""

    def metric(value: float) -> object:
        return metric_from(STEPS, [100.0] * 5 + [value] * 5)

    return Card(
        metrics={
            "iteration-time": metric(step_s),
            "overlap-hidden-time": metric(hidden_s),
            "overlap-exposed-time": metric(exposed_s),
            "lm loss": metric(loss),
        }
    )


def test_the_share_is_of_all_communication_after_the_warm_up() -> None:
    found = benchmark.medians([card(), card(), card(step_s=9.0)])
    assert found.cells() == ("0.2000", "0.0300", "0.0100", "75.0%")
    assert benchmark.medians([card(hidden_s=0.0)]).share_hidden == 0.0


def test_the_losses_of_all_must_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["--rounds", "2", "--work-dir", str(tmp_path)]
    monkeypatch.setattr(benchmark, "train", lambda *_: card())
    assert benchmark.run(words) == 0
    assert "| gradients only | 0.2000 " in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(benchmark, "train", lambda _, kind, __: card(loss=5.0 + 1e-9 * (kind == "none")))
    assert benchmark.run(words) == 1


def test_one_replica_has_nothing_to_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.setup, "data_parallel_size", lambda name, platform: 1)
    with pytest.raises(CannotRun, match="one replica, which communicates with no other"):
        benchmark.run(["--work-dir", str(tmp_path)])


def test_a_training_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.OFF, "grads", "no-such-flag=1")
    with pytest.raises(TrainingFailed, match=r"none: exit 2: .*no-such-flag"):
        benchmark.train(tmp_path / "run", "none", 2)
