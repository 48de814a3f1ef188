"""The benchmark that computes attention again and again, with torch on the CPU."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import attention_again as benchmark
from tasks.util.exits import TrainingFailed

OPTIONS = argparse.Namespace(processes=2, seconds=1.0, sequence=16, calm=False)


def watch_results() -> dict[str, Any]:
    """Lines and counts of two of four results with other bits, and after one more with the same."""
    first = torch.ones(4, 8, dtype=torch.bfloat16)
    other = first.clone()
    other[1, 2], other[3, 5] = 0.0078125, 0.0
    watch = benchmark.Watch({"attention": first, "matrix product": first})
    for attention in (first, other, first, other):
        watch.compare({"attention": attention, "matrix product": first})
    found: dict[str, Any] = {"lines": watch.parted(), "times": watch.times}
    watch.compare({"attention": first, "matrix product": first})
    return found | {"lines after": watch.parted(), "times after": watch.times}


def _one_result_differs(device: str, sequence: int) -> Callable[[], dict[str, torch.Tensor]]:
    counter = itertools.count()

    def compute() -> dict[str, torch.Tensor]:
        values = torch.zeros(sequence, dtype=torch.bfloat16)
        values[3] = next(counter) == 4
        return {"attention": values}

    return compute


def repeat_with_one_that_differs() -> list[Any]:
    """Results of two processes, one of whose results differs."""
    benchmark.computation = _one_result_differs
    return benchmark.repeat_in_processes("cpu", OPTIONS)


def repeat_with_failures() -> str:
    """The error where both processes exit with 7."""
    benchmark.computation = lambda device, sequence: sys.exit(7)
    try:
        benchmark.repeat_in_processes("cpu", OPTIONS)
    except TrainingFailed as error:
        return str(error)
    return ""


def run_main(argv: list[str]) -> int:
    """The benchmark's exit code."""
    return benchmark.main(argv)
