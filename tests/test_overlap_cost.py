"""The benchmark of what our scalars cost: the difference of runs in turns, and when it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import overlap_cost as benchmark


def runs(*medians: float, noise: float = 0.0) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [median * (1.0 + noise * random.standard_normal(36)) for median in medians]


def test_the_cost_is_that_of_the_rounds_however_the_machine_drifts() -> None:
    cost, low, high = benchmark.difference(runs(1.1, 2.2, 4.4), runs(1.0, 2.0, 4.0))
    assert cost == pytest.approx(0.1)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


def test_noise_is_in_the_interval() -> None:
    cost, low, high = benchmark.difference(runs(1.0, 1.3, 0.9, noise=0.1), runs(1.0, 1.0, 1.0, noise=0.1))
    assert low < 0.0 < high
    assert low <= cost <= high
    assert high - low > 0.05


def measured_cost(monkeypatch: pytest.MonkeyPatch, out: Path, part: float) -> int:
    steps = {benchmark.CLOCK: np.full(5, 0.25), benchmark.PROCESSOR: np.full(5, 0.5)}
    seen = []
    monkeypatch.setattr(benchmark, "train", lambda *_: steps)
    monkeypatch.setattr(benchmark, "direct", lambda _, __, step_s: (seen.append(step_s), (part, []))[1])
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    code = benchmark.main(["--rounds", "2", "--out", str(out)])
    assert seen == [0.5], "calls are held against the processors' time"
    return code


def test_it_fails_when_the_evidence_costs_more_than_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured_cost(monkeypatch, tmp_path / "a.md", 0.0099) == 0
    assert measured_cost(monkeypatch, tmp_path / "b.md", 0.0101) == 1
    assert "directly: 1.01% of a step; at most 1%: MISSED" in (tmp_path / "b.md").read_text()
    assert (
        "| processor, all ranks | without resources | 0.5000 s | +0.00% | +0.00% to +0.00% |"
        in (tmp_path / "a.md").read_text()
    )
