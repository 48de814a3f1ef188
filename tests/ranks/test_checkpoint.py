"""The processes that a rank starts for its checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.case import REPOSITORY

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
