"""The processes that a rank starts for its checkpoints, and the order in which it saves, checks and loads."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tasks.ranks import checkpoint, mcore_compat
from tasks.ranks.checkpoint import Checkpoints
from tasks.util import processes

NO_BYTES = 1000  # free, when a disk is full


def started(core: str, changes: dict[str, object]) -> list[list[object]]:
    """Processes that ``start_worker`` starts, where megatron-core is able to (as 0.19 is), or not."""
    calls: list[list[object]] = []

    def results(mp_mode: str = "spawn") -> None:
        calls.append(["results", mp_mode])

    libc = SimpleNamespace(prctl=lambda option, process, *_: calls.append([hex(option), process.value]))
    processes.ctypes = SimpleNamespace(CDLL=lambda name: libc, c_ulong=ctypes.c_ulong)
    mcore_compat.PersistentAsyncCaller._persistent_process = SimpleNamespace(pid=4321)
    queue = checkpoint.AsyncCallsQueue
    if core == "able":
        queue.warmup_persistent_caller = lambda rank, mp_mode: calls.append([rank, mp_mode])
    elif hasattr(queue, "warmup_persistent_caller"):
        del queue.warmup_persistent_caller
    mcore_compat.filesystem_async.get_write_results_queue = results
    values = {"rank": 3, "save": "folder", "use_persistent_ckpt_worker": True} | changes
    checkpoint.start_worker(argparse.Namespace(**values))
    return calls


class _Queue:
    """``left`` saves, of which each question finishes one; the worker ends when ``ends`` are left."""

    def __init__(self, calls: list[str], left: int, ends: int | None) -> None:
        self.calls, self.left, self.ends = calls, left, ends
        self.worker = SimpleNamespace(is_alive=lambda: self.left != self.ends, exitcode=1)
        self.persistent_caller = SimpleNamespace(process=self.worker)

    def get_num_unfinalized_calls(self) -> int:
        return self.left

    def maybe_finalize_async_calls(self, blocking: bool) -> None:
        self.calls.append("asked, to wait" if blocking else "asked")
        self.left -= 1

    def close(self) -> None:
        self.calls.append("closed")


def _calls_of(
    step: Callable[[Checkpoints], object],
    left: int,
    ends: int | None = None,
    *,
    newer: bool = False,
    free: int = 2**30,
    folder: str = "tasks",
) -> list[str]:
    """Calls of the queue, and the error. ``newer``: megatron-core keeps its worker in another place."""
    calls: list[str] = []
    saves = Checkpoints.__new__(Checkpoints)
    saves.args = SimpleNamespace(save=folder)
    shutil.disk_usage = lambda _: SimpleNamespace(free=free)
    saves._queue = queue = _Queue(calls, left, ends)
    mcore_compat.PersistentAsyncCaller._persistent_process = queue.worker if newer else None
    if newer:
        del queue.persistent_caller
    try:
        step(saves)
    except RuntimeError as error:
        calls.append(str(error).split(";")[0])
    return calls


def ends_of_saves() -> dict[str, list[str]]:
    """Saves that are waited for at the end or after a step, by what has become of their worker."""

    def after_a_step(saves: Checkpoints) -> None:
        saves.finish_saves(blocking=False)

    at_the_end = Checkpoints.close
    return {
        "two left": _calls_of(at_the_end, 2),
        "step": _calls_of(after_a_step, 2),
        "ended": _calls_of(at_the_end, 2, 1),
        "ended, newer": _calls_of(at_the_end, 2, 1, newer=True),
        "ended, step": _calls_of(after_a_step, 2, 2),
        "full": _calls_of(after_a_step, 2, 2, free=NO_BYTES),
        "no folder yet": _calls_of(after_a_step, 2, 2, free=NO_BYTES, folder="not there"),
    }


def _checkpoints(calls: list[Any], *, held_iteration: int = 6, **changes: object) -> Checkpoints:
    """Checkpoints whose parts note their calls; what is read holds ``held_iteration``."""

    def choose_newest(root: object, expected: object) -> checkpoint.Choice:
        calls.append(["newest"])
        return checkpoint.Choice(iteration=6)

    def read(self: Checkpoints, folder: object, strategy: object) -> dict[str, int]:
        calls.append(["read", os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")])
        return {"iteration": held_iteration, "consumed_train_samples": 48}

    checkpoint.manifest = SimpleNamespace(
        complete=lambda _, *, iteration, origin: calls.append(["manifest", iteration])
    )
    checkpoint.write_tracker = lambda root, iteration: calls.append(["tracker", iteration])
    checkpoint.integrity.verify = lambda folder, iteration, expected: calls.append(["verified", iteration])
    checkpoint.integrity.choose_newest = choose_newest
    serialization = checkpoint.dist_checkpointing.serialization
    serialization.get_default_load_sharded_strategy = lambda folder: None
    Checkpoints._restore = lambda self, state: calls.append(["restored"])
    Checkpoints._read = read
    one = Checkpoints.__new__(Checkpoints)
    one.args = argparse.Namespace(**_ARGUMENTS | changes)
    one.manifest_s, one._vouched_for, one._identity, one._expected = 0.0, None, None, None
    one._queue = SimpleNamespace(close=lambda **how: calls.append(["closed", how]))
    return one


_ARGUMENTS: dict[str, object] = {
    "rank": 0,
    "save": "saved",
    "load": "saved",
    "ckpt_step": None,
    "load_rng": True,
    "ckpt_fully_parallel_load": False,
    "dist_ckpt_strictness": "raise_all",
}


def completed(rank: int) -> list[Any]:
    """Files that a rank writes when all shards of a save are there."""
    calls: list[Any] = []
    _checkpoints(calls, rank=rank)._complete(4)
    return calls


def aborted() -> list[Any]:
    """Calls about saves when the rank has failed."""
    calls: list[Any] = []
    _checkpoints(calls).abort()
    return calls


def chosen_and_loaded(changes: dict[str, object]) -> dict[str, Any]:
    """The iteration that is chosen, and what is checked and read before and while it is loaded."""
    calls: list[Any] = []
    one = _checkpoints(calls, **changes)
    choice, before = one.choose().iteration, list(calls)
    calls.clear()
    samples = one.load(6) if choice else None
    return {"chosen": choice, "before": before, "samples": samples, "while loading": calls}


def loaded_without_choice(held_iteration: int) -> dict[str, Any]:
    """Calls to load iteration 6 where nothing was chosen, and the error."""
    calls: list[Any] = []
    try:
        _checkpoints(calls, held_iteration=held_iteration).load(6)
    except RuntimeError as error:
        return {"error": str(error), "calls": calls}
    return {"error": None, "calls": calls}


def hooks_around_gathering(overlapped: bool) -> list[str]:
    """Hooks before, in and after a block with gathered parameters that an error ends."""
    calls: list[str] = []
    chunk = SimpleNamespace(
        remove_forward_pre_hook_handles={1: 1},
        disable_forward_pre_hook=lambda: calls.append("off"),
        enable_forward_pre_hook=lambda: calls.append("on"),
    )
    arguments = argparse.Namespace(overlap_param_gather=overlapped)
    with contextlib.suppress(KeyError), checkpoint.gathered_parameters(arguments, [chunk]):
        calls.append("inside")
        raise KeyError
    return calls


def read_with_keys_left_over(missing: list[str], unexpected: list[str]) -> dict[str, Any] | str:
    """State that is read, or the error, where random states are not loaded and these keys are left over."""
    Checkpoints._sharded_state = lambda self, *, is_loading: {"is loading": is_loading}
    one = Checkpoints.__new__(Checkpoints)
    one.args = argparse.Namespace(load_rng=False)
    checkpoint.dist_checkpointing.load = lambda wanted, *_, strict: (wanted, {*missing}, {*unexpected})
    try:
        return one._read("folder", None)
    except RuntimeError as error:
        return str(error)
