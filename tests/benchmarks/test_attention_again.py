"""The benchmark that computes attention again and again: what it counts, and when it fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY
from tests.program import Finished, answer_of, forked


def test_results_with_other_bits_are_counted_and_told_once() -> None:
    assert answer_of("attention.watch_results") == {
        "lines": ["attention parted in 2 values, (1, 2) to (3, 5): 0x0, 0x3c00"],
        "times": 2,
        "lines after": [],
        "times after": 2,
    }


def test_one_process_whose_results_part_is_named() -> None:
    results = answer_of("attention.repeat_with_one_that_differs")
    assert [(process, times) for process, _, times, _ in results] == [(0, 1), (1, 1)]
    assert all(repetitions >= 4 for _, repetitions, _, _ in results)
    assert results[0][3] == ["attention parted in 1 values, (3,) to (3,): 0x3f80"]


def test_a_process_that_fails_fails_all() -> None:
    error = answer_of("attention.repeat_with_failures")
    assert "2 of 2 processes failed, with exit code 7" in error


def on_a_cpu(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Finished:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    finished = forked("attention.run_main", ["--sequence", "32", *arguments])
    assert (finished.exit_code, finished.answer) == (0, 0), finished.stderr
    return finished


def test_on_a_cpu_nothing_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    done = on_a_cpu(monkeypatch, "--processes", "2", "--seconds", "1")
    count, _, rest = done.stdout.partition(" ")
    assert int(count) >= 2
    assert rest == "repetitions in 2 processes, torch on the CPU: 0 parted\n"


def test_another_allocator_is_used_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = ("--allocator", "expandable_segments:False")
    done = on_a_cpu(monkeypatch, "--processes", "1", "--seconds", "0.5", *allocator)
    assert done.stdout.endswith("in 1 processes, torch on the CPU, expandable_segments:False: 0 parted\n")


def test_nothing_computed_is_not_nothing_parted() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/attention_again.py", "--sequence", "32", "--processes", "0"],
        cwd=REPOSITORY,
        env=os.environ | {"CRASH_TEST_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing was computed: give --processes and --seconds more than 0" in done.stderr
