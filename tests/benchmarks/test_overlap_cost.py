"""The benchmark of what the evidence of overlap costs: which steps are compared, and when it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import overlap_cost as benchmark
from tasks.util.exits import TrainingFailed

EVEN = frozenset(range(0, 1000, 2))


def training(part: float, with_evidence: frozenset[int] = EVEN) -> benchmark.Training:
    """1000 steps of 0.2 s, longer by ``part`` with the evidence; every tenth and the next far longer."""
    noise = np.random.default_rng(3).normal(0.0, 0.002, 1001)
    seconds = {
        step: 9.0 if step % 10 in (0, 1) else 0.2 * (1.0 + (step in with_evidence) * part) + noise[step]
        for step in range(1, 1001)
    }
    both = {benchmark.CLOCK: seconds, benchmark.PROCESSOR: seconds}
    return benchmark.Training(seconds=both, with_evidence=with_evidence)


def test_steps_that_other_things_disturb_are_left_out() -> None:
    with_it, without = training(0.1).halves(benchmark.CLOCK)
    assert with_it.size == without.size == 99 * 4
    assert max(with_it.max(), without.max()) < 1.0


def test_the_cost_lies_in_its_interval() -> None:
    part, low, high = benchmark.cost(*training(0.1).halves(benchmark.CLOCK))
    assert low < part < high
    assert part == pytest.approx(0.1, abs=0.005)
    assert high - low < 0.01


@pytest.mark.parametrize("steps", [frozenset(), frozenset(range(1001))])
def test_without_two_halves_there_is_no_comparison(steps: frozenset[int]) -> None:
    with pytest.raises(TrainingFailed, match="no comparison"):
        training(0.0, steps).halves(benchmark.CLOCK)


@pytest.mark.parametrize(("part", "code", "verdict"), [(0.002, 0, "met"), (0.02, 1, "MISSED")])
def test_it_fails_when_the_evidence_costs_more_than_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float, code: int, verdict: str
) -> None:
    monkeypatch.setattr(benchmark, "train", lambda *_: training(part))
    assert benchmark.main(["--out", str(tmp_path / "out.md")]) == code
    assert f"by the processor's seconds: {verdict}" in (tmp_path / "out.md").read_text()
