"""Memory of a GPU that is reserved before the first step, with functions of torch's that note their calls."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.ranks import warm_up


class _Block:
    """Memory, as far as it can be counted while it is alive."""


def calls_of_a_stage(is_last: bool) -> list[list[Any]]:
    """Each call with what it asks for and the blocks that are alive then; last the answer."""
    alive: weakref.WeakSet[_Block] = weakref.WeakSet()
    calls: list[list[Any]] = []

    def empty(size: int, *, dtype: torch.dtype, device: int) -> _Block:
        assert (dtype, device) == (torch.uint8, 3)
        block = _Block()
        alive.add(block)
        calls.append(["block", size, len(alive)])
        return block

    def note(name: str, value: Any = None, answer: Any = None) -> Any:
        calls.append([name, value, len(alive)])
        return answer

    flags = load_case("gpt3_pp4_resume", platform_name="gpu1_h100").argv()
    arguments = parse_arguments(flags, world_size=8)
    torch.empty = empty
    torch.cuda.current_device = lambda: 3
    torch.distributed.barrier = lambda *, device_ids: note("barrier", device_ids)
    torch.cuda.reset_peak_memory_stats = lambda: note("peak")
    torch.cuda.max_memory_allocated = lambda: note("asked", answer=77)
    warm_up.parallel_state.is_pipeline_last_stage = lambda *, ignore_virtual: is_last
    note("answer", warm_up.reserve_memory(arguments))
    return calls
