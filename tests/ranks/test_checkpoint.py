"""The processes that a rank starts for its checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.case import REPOSITORY
from tasks.infrastructure import NO_SPACE, kind_of
from tests.program import answer_of

# megatron-core 0.19's names, which 0.16 has not
PROGRAM = """
import argparse, ctypes, json, sys, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint
calls = []
libc = types.SimpleNamespace(prctl=lambda option, process, *rest: calls.append([hex(option), process.value]))
checkpoint.ctypes = types.SimpleNamespace(CDLL=lambda name: libc, c_ulong=ctypes.c_ulong)
checkpoint.PersistentAsyncCaller._persistent_process = types.SimpleNamespace(pid=4321)
if sys.argv[2] == "able":
    checkpoint.AsyncCallsQueue.warmup_persistent_caller = lambda rank, mp_mode: calls.append([rank, mp_mode])
elif hasattr(checkpoint.AsyncCallsQueue, "warmup_persistent_caller"):
    del checkpoint.AsyncCallsQueue.warmup_persistent_caller
def results(mp_mode="spawn"):
    calls.append(["results", mp_mode])
checkpoint.filesystem_async.get_write_results_queue = results
values = {"rank": 3, "save": "folder", "use_persistent_ckpt_worker": True} | json.loads(sys.argv[1])
checkpoint.start_worker(argparse.Namespace(**values))
print(json.dumps(calls))
"""


def started(core: str = "able", **values: object) -> list[list[object]]:
    """What ``start_worker`` starts and how, with these arguments, where megatron-core can or cannot."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(values), core]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout.splitlines()[-1])


def test_worker_and_its_results_are_forked_and_it_may_take_file_descriptors_of_its_rank() -> None:
    may_trace = "0x59616d61"  # PR_SET_PTRACER of linux/prctl.h
    assert started() == [[3, "fork"], ["results", "fork"], [may_trace, 4321]]


@pytest.mark.parametrize("values", [{"save": None}, {"use_persistent_ckpt_worker": False}])
def test_nothing_is_started_that_is_not_used(values: dict[str, object]) -> None:
    assert started(**values) == []


def test_no_worker_where_megatron_core_has_none() -> None:
    assert started("older") == []


SAVES = """
import json, sys, types
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
from tasks.ranks import checkpoint
said = []


class Queue:
    def __init__(self, left, ends):
        self.left, self.ends = left, ends
        self.worker = types.SimpleNamespace(is_alive=lambda: self.left != self.ends, exitcode=1)
        self.persistent_caller = types.SimpleNamespace(process=self.worker)

    def get_num_unfinalized_calls(self):
        return self.left

    def maybe_finalize_async_calls(self, blocking):
        said.append("asked, to wait" if blocking else "asked")
        self.left -= 1

    def close(self):
        said.append("closed")


def said_by(step, left, ends=None, newer=False, free=2**30, folder="tasks"):
    saves = checkpoint.Checkpoints.__new__(checkpoint.Checkpoints)
    saves.args = types.SimpleNamespace(save=folder)
    checkpoint.shutil = types.SimpleNamespace(disk_usage=lambda folder: types.SimpleNamespace(free=free))
    saves._queue = queue = Queue(left, ends)
    checkpoint.PersistentAsyncCaller._persistent_process = queue.worker if newer else None
    if newer:
        del queue.persistent_caller
    del said[:]
    try:
        step(saves)
    except RuntimeError as error:
        said.append(str(error).split(";")[0])
    return list(said)


whole = checkpoint.Checkpoints.close
now = lambda saves: saves.finish_saves(blocking=False)
print(json.dumps({
    "two left": said_by(whole, 2), "step": said_by(now, 2),
    "ended": said_by(whole, 2, 1), "ended, newer": said_by(whole, 2, 1, True),
    "ended, step": said_by(now, 2, 2), "full": said_by(now, 2, 2, free=1000),
    "no folder yet": said_by(now, 2, 2, free=1000, folder="not there"),
}))
"""


def test_a_save_whose_worker_has_ended_is_not_waited_for() -> None:
    ended = "the checkpoint worker of this rank ended before its work (exit code 1)"
    answer = answer_of(SAVES)
    assert answer == {
        "two left": ["asked", "asked", "closed"],
        "step": ["asked"],
        "ended": ["asked", ended],
        "ended, newer": ["asked", ended],
        "ended, step": [ended],
        "no folder yet": [ended],
        "full": [ended.replace("1)", "1, No space left on device: tasks)")],
    }
    assert kind_of(answer["full"][0]) is NO_SPACE
