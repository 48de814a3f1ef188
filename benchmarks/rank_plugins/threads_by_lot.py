"""Where the threads of a rank run, by lot every five steps, the same on all ranks; times in the last log.

Backward passes in a thread of the device (torch's default) or in the one that asks for them; the threads of a
rank on any core, on cores of its own, or all on one core. The first step after a change is left out, and with
it each one that follows a comparison of weights. ``--set train-iters=251``: 32 steps of each of the six ways.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
from collections import defaultdict
from typing import Any

import torch

from tasks.ranks import pretrain, scalars

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
CORES = sorted(os.sched_getaffinity(0))
SHARE = max(len(CORES) // RANKS, 1)
OWN = [CORES[(RANK * SHARE + index) % len(CORES)] for index in range(SHARE)]
PLACES = {"any core": CORES, "cores of its own": OWN, "one core": OWN[:1]}
WAYS = [(place, threads) for place in PLACES for threads in (True, False)]
FIRST_STEP, EVERY = 11, 5

step, finish, write = pretrain.Trainer.step, pretrain.Trainer.finish, scalars.Scalars.write
seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)


def way_of(number: int) -> tuple[str, bool] | None:
    """The way of a step; each round of all ways has an order of its own."""
    turn, way = divmod((number - FIRST_STEP) // EVERY, len(WAYS))
    return None if number < FIRST_STEP else random.Random(turn).sample(WAYS, len(WAYS))[way]


def place(cores: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)


def step_in_its_way(trainer: pretrain.Trainer) -> None:
    number = trainer.iteration + 1
    if (way := way_of(number)) and (number - FIRST_STEP) % EVERY == 0:
        place(PLACES[way[0]])
        torch.autograd.set_multithreading_enabled(way[1])
    step(trainer)


def write_and_keep(writer: scalars.Scalars, number: int, values: dict[str, Any]) -> None:
    way = way_of(number)
    if way and "iteration-time" in values and (number - FIRST_STEP) % EVERY:
        seconds[way].append(values["iteration-time"])
    write(writer, number, values)


def finish_and_tell(trainer: pretrain.Trainer) -> None:
    place(CORES)
    if RANK == RANKS - 1:
        for where, threads in WAYS:
            times = seconds[where, threads]
            median = f"{statistics.median(times):.4f} s" if times else "none"
            thread = "a thread of the device" if threads else "the thread that asks"
            print(f"{where}, backward in {thread}: median of {len(times)} steps: {median}")
    finish(trainer)


pretrain.Trainer.step, pretrain.Trainer.finish = step_in_its_way, finish_and_tell
scalars.Scalars.write = write_and_keep
