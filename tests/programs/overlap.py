"""Three steps of three layers on megatron-core's own bucket groups, on one rank, watched or not."""

from __future__ import annotations

import contextlib
import runpy
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    param_and_grad_buffer,
)
from megatron.core.transformer import TransformerConfig

from tasks.ranks import overlap
from tasks.ranks.device import EventPool


def three_steps(grad: bool, gather: bool, watched: bool, plugins: list[str]) -> dict[str, Any]:
    """Buckets, and for each step a digest of the gradients and what was counted."""
    for plugin in plugins:
        runpy.run_path(plugin)
    layers, chunk = _chunk(grad, gather)
    watch = overlap.Overlap([chunk]) if watched else None
    with watch.installed() if watch else contextlib.nullcontext():
        steps = _steps(layers, chunk, watch, gather=gather, asynchronous=grad and gather)
    # Left to Python's end, a thread of Gloo's now and then aborts it.
    torch.distributed.destroy_process_group()
    return {"buckets": len(overlap.bucket_groups([chunk])), "steps": steps}


def left_by_watching(fails: bool) -> dict[str, Any]:
    """Methods of bucket groups that are still watched, and megatron-core's own manager, once it has ended."""
    _, chunk = _chunk(True, True)
    groups = overlap.bucket_groups([chunk])
    with contextlib.suppress(KeyError), overlap.Overlap([chunk]).installed():
        watched = [name for name in overlap._WATCHED_METHODS if name in vars(groups[0])]
        inside = param_and_grad_buffer._coalescing_manager is torch.distributed._coalescing_manager
        if fails:
            raise KeyError
    torch.distributed.destroy_process_group()
    left = [name for group in groups for name in overlap._WATCHED_METHODS if name in vars(group)]
    manager = param_and_grad_buffer._coalescing_manager is torch.distributed._coalescing_manager
    return {"watched": watched, "inside": inside, "left": left, "manager as before": manager}


def _steps(
    layers: torch.nn.Module,
    chunk: DistributedDataParallel,
    watch: overlap.Overlap | None,
    *,
    gather: bool,
    asynchronous: bool,
) -> list[list[Any]]:
    steps = []
    for _ in range(3):
        chunk.zero_grad_buffer()
        if not gather:
            chunk.start_param_sync()
        chunk(torch.ones(2, 8)).square().sum().backward()
        chunk.finish_grad_sync()
        if watch and asynchronous:
            assert not watch._at_once, "all is asynchronous: what is waited for is exposed, and nothing twice"
        digest = float(sum(parameter.main_grad.double().sum() for parameter in layers.parameters()))
        steps.append([digest, watch.take() if watch else None])
    chunk.start_param_sync(force_sync=True)  # as for a checkpoint: of no step
    if watch:
        assert watch.take()["overlap-exposed-time"] == 0
    return steps


def _chunk(grad: bool, gather: bool) -> tuple[torch.nn.Module, DistributedDataParallel]:
    """Three layers, a bucket each where reductions overlap, with the distributed optimizer."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    torch.manual_seed(1)
    layers = torch.nn.Sequential(*[torch.nn.Linear(8, 8, bias=False) for _ in range(3)])
    options = DistributedDataParallelConfig(
        overlap_grad_reduce=grad,
        overlap_param_gather=gather,
        use_distributed_optimizer=True,
        bucket_size=64,
    )
    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    return layers, DistributedDataParallel(config, options, layers)


class _Handle:
    waits = 0

    def wait(self) -> None:
        self.waits += 1


class _Event:
    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms

    def elapsed_time(self, later: _Event) -> float:
        return later.at_ms - self.at_ms


class _Events:
    """Events at given times."""

    def __init__(self, *times_ms: float) -> None:
        self.times_ms = list(times_ms)

    def record(self) -> _Event:
        return _Event(self.times_ms.pop(0))


def wait_twice() -> dict[str, Any]:
    """A handle that is waited for twice: waits, how often it is seen, hidden and exposed time."""
    handle, seen = _Handle(), []
    watched = overlap._WatchedHandle(handle, EventPool())
    watched.on_wait = lambda one: seen.append(one is watched)
    watched.wait()
    watched.wait()
    waits = handle.waits
    timed = overlap._WatchedHandle(handle, _Events(0.0, 1000.0, 1500.0))
    timed.wait()
    timed.wait()
    return {"waits": waits, "seen": seen, "hidden": timed.hidden_s, "exposed": timed.exposed_s}
