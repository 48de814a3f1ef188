"""A rank of two that waits inside a collective, until its input ends."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tasks.ranks import flight_recorder


def wait_in_a_collective(rank: int, folder: str) -> None:
    """Rank 0 starts a collective that rank 1 never does."""
    flight_recorder.answer(Path(folder, f"{rank}.json"))
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.distributed.all_reduce(torch.zeros(1))
    print("ready", flush=True)
    if rank == 0:
        torch.distributed.all_reduce(torch.zeros(1))
    sys.stdin.read()
