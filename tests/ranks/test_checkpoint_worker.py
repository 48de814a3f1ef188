"""The checkpoint worker of a rank is started before it touches CUDA, and named to the kernel."""

from __future__ import annotations

import json
import subprocess
import sys

from tasks.case import REPOSITORY

PROGRAM = """
import argparse, json, types
from tasks.ranks import checkpoint

told = []
prctl = lambda option, *values: told.append([option, getattr(values[0], "value", values[0])])
checkpoint.ctypes = types.SimpleNamespace(
    CDLL=lambda name: types.SimpleNamespace(prctl=prctl), c_ulong=checkpoint.ctypes.c_ulong
)
checkpoint.PersistentAsyncCaller = types.SimpleNamespace(_persistent_process=types.SimpleNamespace(pid=4321))
checkpoint.filesystem_async.get_write_results_queue = lambda *, mp_mode: told.append(["queue", mp_mode])
checkpoint.AsyncCallsQueue = types.SimpleNamespace(
    warmup_persistent_caller=lambda rank, *, mp_mode: told.append([rank, mp_mode])
)
checkpoint.start_worker(argparse.Namespace(rank=3, save="checkpoints", use_persistent_ckpt_worker=True))
checkpoint.start_worker(argparse.Namespace(rank=3, save=None, use_persistent_ckpt_worker=True))
checkpoint.AsyncCallsQueue = types.SimpleNamespace()  # megatron-core 0.16 cannot start one early
checkpoint.start_worker(argparse.Namespace(rank=3, save="checkpoints", use_persistent_ckpt_worker=True))
print(json.dumps(told))
"""
PR_SET_PTRACER = 0x59616D61  # linux/prctl.h


def test_the_worker_is_forked_and_may_take_file_descriptors_of_its_rank() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [[3, "fork"], ["queue", "fork"], [PR_SET_PTRACER, 4321]]
