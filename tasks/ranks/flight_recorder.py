"""Write a rank's flight recorder (torch's record of its collectives) on SIGUSR2.

A thread writes it: the main thread of a rank that hangs waits inside a collective, where no Python handler
runs. Format of the entries: torch's ``FlightRecorder::dump_json``.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from torch.distributed import distributed_c10d

from tasks.util.files import replace_file

_KEPT = ("collective_seq_id", "is_p2p", "process_group", "profiling_name", "retired")


def answer(path: Path) -> None:
    """Answer from now on, into this file. Call it in the main thread."""
    asked, asks = os.pipe()
    os.set_blocking(asks, False)
    # Python's own handler, which is C, writes into the pipe at once, whatever the main thread is doing.
    signal.set_wakeup_fd(asks, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    threading.Thread(target=_answer, args=(asked, path), name="flight recorder", daemon=True).start()


def _answer(asked: int, path: Path) -> None:
    while os.read(asked, 1):
        replace_file(path, json.dumps(record()))


def record() -> dict[str, Any]:
    """``entries``: the newest collectives and messages, oldest first; ``groups``: the ranks of each group."""
    on_gpus = torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl"
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace_json", None) if on_gpus else None
    content = json.loads((dump or torch._C._distributed_c10d._dump_fr_trace_json)())
    world = distributed_c10d._world
    return {
        "entries": [{name: entry[name] for name in _KEPT} for entry in content.get("entries", [])],
        "groups": {name: sorted(world.pg_group_ranks[group]) for group, name in world.pg_names.items()},
    }
