"""What a step takes in several ways, by lot every five steps, the same on all ranks; in the last rank's log.

``WAYS=as-it-is,no-nan-check,own-cores+device-thread``: those to be compared, the first with each of the
others; a way is the names of one or more of ``SWITCHES`` joined by ``+``, or ``as-it-is``. The first step
after a change is left out, and with it each one that follows a comparison of weights: ``--set
train-iters=251`` makes 240 steps for all ways together, of which 192 count.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import sys
from collections import defaultdict
from typing import Any

import torch
from megatron.core.pipeline_parallel import schedules

from benchmarks.rank_plugins.switched_overlap import SwitchedOverlap
from tasks.ranks import batches, overlap, pretrain, resources, scalars
from tasks.util.exits import UsageError

SWITCHES = {
    "device-thread": "backward passes in a thread of the device, torch's default",
    "own-cores": "the threads of a rank on cores of its own",
    "one-core": "the threads of a rank all on one core",
    "no-nan-check": "gradients are not checked for NaN before they are reduced",
    "no-collector": "Python's collector of garbage is off",
    "no-guards": "compiled functions are called without their guards",
    "long-turns": "a thread may keep Python's lock for 0.2 s",
    "read-on-demand": "micro-batches are read where they are needed",
    "no-overlap-evidence": "communication is neither counted nor timed",
    "pass-times": "passes of the schedule are timed in every step, on a GPU, too",
    "no-pass-times": "they are timed in none",
    "no-growth": "growth of memory is not measured",
    "no-norm-no-memory": "no norm of the parameters, no memory of the device",
}
AS_IT_IS = "as-it-is"
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
CORES = sorted(os.sched_getaffinity(0))
SHARE = max(len(CORES) // RANKS, 1)
OWN = [CORES[(RANK * SHARE + index) % len(CORES)] for index in range(SHARE)]
WAYS = os.environ.get("WAYS", f"{AS_IT_IS},no-nan-check").split(",")
FIRST_STEP, EVERY = 11, 5

step, finish, write = pretrain.Trainer.step, pretrain.Trainer.finish, scalars.Scalars.write
read_ahead = batches.Batches.read_ahead
growth, passes_are_due = resources.Resources._memory_growth, resources.Resources._passes_are_due
timed: dict[str, Any] = {}  # passes of the schedule, with the watches of ``Resources`` around them
seconds: dict[str, list[list[float]]] = defaultdict(list)  # of each way, a list a turn
unknown = {name for way in WAYS for name in way.split("+")} - {*SWITCHES, AS_IT_IS}
if unknown:
    raise UsageError(f"WAYS: unknown {', '.join(sorted(unknown))}; known: {', '.join([AS_IT_IS, *SWITCHES])}")


def way_of(number: int) -> tuple[int, str] | None:
    """Turn and way of a step; each turn takes all ways in an order of its own."""
    turn, place = divmod((number - FIRST_STEP) // EVERY, len(WAYS))
    return None if number < FIRST_STEP else (turn, random.Random(turn).sample(WAYS, len(WAYS))[place])


def set_switches(trainer: pretrain.Trainer, on: set[str]) -> None:
    place_threads(OWN if "own-cores" in on else OWN[:1] if "one-core" in on else CORES)
    torch.autograd.set_multithreading_enabled("device-thread" in on)
    for group in overlap.bucket_groups(trainer.chunks):
        checked = trainer.args.check_for_nan_in_loss_and_grad and "no-nan-check" not in on
        group.ddp_config.check_for_nan_in_grad = checked
    (gc.disable if "no-collector" in on else gc.enable)()
    torch.compiler.set_stance("default", skip_guard_eval_unsafe="no-guards" in on)
    sys.setswitchinterval(0.2 if "long-turns" in on else 0.005)
    batches.Batches.read_ahead = read_on_demand if "read-on-demand" in on else read_ahead
    trainer.measurements.overlap.switch("no-overlap-evidence" not in on)
    time_passes("no-pass-times" not in on)
    always = "pass-times" in on
    resources.Resources._passes_are_due = (lambda _: True) if always else passes_are_due
    resources.Resources._memory_growth = growth if "no-growth" not in on else lambda *_: 0
    asked = "no-norm-no-memory" not in on
    trainer.args.log_params_norm = trainer.args.log_memory_to_tensorboard = asked


def place_threads(cores: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)


def time_passes(on: bool) -> None:
    for name in ("forward_step", "backward_step"):
        timed.setdefault(name, getattr(schedules, name))
        setattr(schedules, name, timed[name] if on else timed[name].__wrapped__)


def read_on_demand(self: batches.Batches, count: int) -> None:
    if count == 1:  # what is taken next
        read_ahead(self, count)


def step_in_its_way(trainer: pretrain.Trainer) -> None:
    number = trainer.iteration + 1
    if (chosen := way_of(number)) and (number - FIRST_STEP) % EVERY == 0:
        set_switches(trainer, set(chosen[1].split("+")))
    step(trainer)


def write_and_keep(writer: scalars.Scalars, number: int, values: dict[str, Any]) -> None:
    chosen = way_of(number)
    if chosen and "iteration-time" in values and (number - FIRST_STEP) % EVERY:
        turn, way = chosen
        seconds[way] += [[] for _ in range(turn + 1 - len(seconds[way]))]
        seconds[way][turn].append(values["iteration-time"])
    write(writer, number, values)


def finish_and_tell(trainer: pretrain.Trainer) -> None:
    set_switches(trainer, set())
    for way in WAYS if RANK == RANKS - 1 else ():
        print(line_of(way), flush=True)
    finish(trainer)


def line_of(way: str) -> str:
    """Median of a way's steps, and how its turns differ from those of the first way, in per cent."""
    times = [time for turn in seconds[way] for time in turn]
    pairs = [pair for pair in zip(seconds[way], seconds[WAYS[0]], strict=False) if all(pair)]
    percent = [100 * (statistics.median(own) / statistics.median(first) - 1) for own, first in pairs]
    if len(percent) < 2:
        return f"{way}: {len(times)} steps are too few"
    quartile, median, _ = statistics.quantiles(times, n=4)
    error = statistics.stdev(percent) / len(percent) ** 0.5
    return (
        f"{way}: {len(times)} steps, median {median:.4f} s, quartile {quartile:.4f} s; "
        f"against {WAYS[0]} {statistics.mean(percent):+.1f} % +- {error:.1f}"
    )


pretrain.Trainer.step, pretrain.Trainer.finish = step_in_its_way, finish_and_tell
scalars.Scalars.write = write_and_keep
overlap.Overlap = SwitchedOverlap
