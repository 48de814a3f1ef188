"""Memory growth and computing time in pieces of work, of functions that take known times."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import time
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.pipeline_parallel import schedules

from tasks.ranks import resources

ARGUMENTS = argparse.Namespace(
    rank=1,
    world_size=4,
    num_attention_heads=4,
    hidden_size=32,
    ffn_hidden_size=128,
    seq_length=32,
    micro_batch_size=1,
)
SUMS = {"forward": 6.0, "backward": 3.0, "piece": 0.1, "step": 12.0, "mem-growth-bytes": [0.0, 7.0, 3.0]}


_installed = contextlib.ExitStack()


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def _resources(
    forward: Callable[[], object], backward: Callable[[], object] = lambda: None
) -> resources.Resources:
    """Measurements of these passes, installed until the program ends."""
    schedules.forward_step, schedules.backward_step = forward, backward
    measured = resources.Resources(ARGUMENTS)
    _installed.enter_context(measured.installed())
    return measured


def passes_after_uninstalling() -> bool:
    """Whether the schedules have their own functions again, after an error inside."""
    before = schedules.forward_step, schedules.backward_step
    with contextlib.suppress(KeyError), resources.Resources(ARGUMENTS).installed():
        assert schedules.forward_step is not before[0]
        raise KeyError
    return (schedules.forward_step, schedules.backward_step) == before


def leaking_steps() -> dict[str, Any]:
    """Scalars after each of nine steps that leak 4 MiB each, and whether torch's random state moved."""
    torch.manual_seed(1)
    random_state = torch.get_rng_state()
    measured = _resources(lambda: _compute(0.01), lambda: (_compute(0.02), time.sleep(0.05)))
    taken, leaked = [], []
    for iteration in range(51, 60):
        measured.begin_step()
        schedules.forward_step()
        schedules.backward_step()
        measured.end_step()
        taken.append(measured.take(iteration))
        measured.compute_piece()
        leaked.append(b"x" * 2**22)
    return {"taken": taken, "untouched": bool((random_state == torch.get_rng_state()).all())}


def pieces_with_an_outlier() -> list[float]:
    """Seconds of the piece after each of twelve steps: 1 ms each, but 50 ms after the sixth."""
    measured = _resources(lambda: None)
    measured.take(0)
    measured._pieces.clear()
    taken = []
    for step in range(1, 13):
        measured._work = lambda step=step: _compute(0.05 if step == 6 else 0.001)
        measured.compute_piece()
        taken.append(measured.take(step)["piece"])
    return taken


def scalars_of_sums() -> dict[str, Any]:
    """Scalars of the job, and what is left of the sums."""
    sums = dict(SUMS)
    return {"scalars": resources.scalars_from(sums), "left": sorted(sums)}


def pieces_every_four_steps() -> dict[str, Any]:
    """Steps with a piece, and what is taken, where step N's pass takes N ms and step 12 has none."""
    passes = iter(range(1, 100))
    rare = _resources(lambda: _compute(0.001 * next(passes)))
    pieces, taken = [], []
    rare._timed_every, rare._work = 4, lambda: pieces.append(rare._steps)
    for step in range(1, 14):
        rare.begin_step()
        if step != 12:
            schedules.forward_step()
        rare.end_step()
        taken.append(rare.take(50 + step))
        rare.compute_piece()
    return {"pieces": pieces, "taken": taken}


def first_piece_s() -> float:
    """The time of the first piece, whose kernels take 0.1 s to load."""
    works = iter([0.1, 0.001, 0.0, 0.0])
    resources._piece_of_work = lambda _: lambda: _compute(next(works))
    first = _resources(lambda: None)
    first.begin_step()
    first.end_step()
    return first.take(51)["piece"]


def growth_by_shared_memory_bytes() -> int:
    """Growth of this process's own memory when it writes to 64 MiB that it shares."""
    own = resources._memory()["host"]
    shared = mmap.mmap(-1, 2**26)
    for _ in range(64):
        shared.write(bytes(2**20))
    return resources._memory()["host"] - own


def growth_of_two_kinds() -> list[int]:
    """Growth where the host's memory grows by 4 bytes and the device's by 1."""
    memory = [{"host": 5, "device": 7}, {"host": 9, "device": 8}]
    resources._memory = lambda: memory.pop(0)
    two_kinds = _resources(lambda: None)
    return [two_kinds._memory_growth(iteration) for iteration in (51, 56)]
