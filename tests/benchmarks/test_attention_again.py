"""The benchmark that computes attention again and again: what it counts, and when it fails."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import attention_again as benchmark
from tasks.util.exits import TrainingFailed
from tasks.util.files import REPOSITORY

OPTIONS = argparse.Namespace(processes=2, seconds=1.0, sequence=16, calm=False)


def test_results_with_other_bits_are_counted_and_told_once() -> None:
    first = torch.ones(4, 8, dtype=torch.bfloat16)
    other = first.clone()
    other[1, 2], other[3, 5] = 0.0078125, 0.0
    watch = benchmark.Watch({"attention": first, "matrix product": first})
    for attention in (first, other, first, other):
        watch.compare({"attention": attention, "matrix product": first})
    assert watch.parted() == ["attention parted in 2 values, (1, 2) to (3, 5): 0x0, 0x3c00"]
    assert watch.times == 2
    watch.compare({"attention": first, "matrix product": first})
    assert watch.parted() == []
    assert watch.times == 2


def test_one_process_whose_results_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def computation(device: str, sequence: int) -> object:
        counter = itertools.count()

        def compute() -> dict[str, torch.Tensor]:
            values = torch.zeros(sequence, dtype=torch.bfloat16)
            values[3] = next(counter) == 4
            return {"attention": values}

        return compute

    monkeypatch.setattr(benchmark, "computation", computation)
    results = benchmark.repeat_in_processes("cpu", OPTIONS)
    assert [(process, times) for process, _, times, _ in results] == [(0, 1), (1, 1)]
    assert all(repetitions >= 4 for _, repetitions, _, _ in results)
    assert results[0][3] == ["attention parted in 1 values, (3,) to (3,): 0x3f80"]


def test_a_process_that_fails_fails_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "computation", lambda device, sequence: sys.exit(7))
    with pytest.raises(TrainingFailed, match="2 of 2 processes failed, with exit code 7"):
        benchmark.repeat_in_processes("cpu", OPTIONS)


def on_a_cpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/attention_again.py", "--sequence", "32", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"CRASH_TEST_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_on_a_cpu_nothing_parts() -> None:
    done = on_a_cpu("--processes", "2", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    count, _, rest = done.stdout.partition(" ")
    assert int(count) >= 2
    assert rest == "repetitions in 2 processes, torch on the CPU: 0 parted\n"


def test_another_allocator_is_used_and_told() -> None:
    done = on_a_cpu("--processes", "1", "--seconds", "0.5", "--allocator", "expandable_segments:False")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("in 1 processes, torch on the CPU, expandable_segments:False: 0 parted\n")


def test_nothing_computed_is_not_nothing_parted() -> None:
    done = on_a_cpu("--processes", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing was computed: give --processes and --seconds more than 0" in done.stderr
