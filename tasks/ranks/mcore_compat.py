"""Differences between the supported versions of megatron-core, 0.16 and 0.19, and its private names in use.

A new megatron-core starts with this file: each function says which version does what.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from typing import Any

import megatron.core
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, PersistentAsyncCaller
from megatron.core.dist_checkpointing.utils import _clean_metadata_for_serialization
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamKey

# Megatron frees a stage's output once it is sent. The interleaved schedule of megatron-core 0.16 does so
# without waiting for the overlapped send, which may still read it: the next stage then computes with other
# values.
SENDS_ARE_WAITED_FOR = tuple(map(int, megatron.core.__version__.split(".")[:2])) >= (0, 19)


def fork_checkpoint_worker(rank: int) -> int | None:
    """Fork the persistent checkpoint worker now; returns its process id. None: 0.16 starts it with a save."""
    start = getattr(AsyncCallsQueue, "warmup_persistent_caller", None)
    if start is None:
        return None
    start(rank, mp_mode="fork")
    filesystem_async.get_write_results_queue(mp_mode="fork")
    return PersistentAsyncCaller._persistent_process.pid


def checkpoint_worker(queue: AsyncCallsQueue) -> BaseProcess | None:
    """The persistent checkpoint worker of this rank; None before it has started.

    0.19 keeps it with the class, 0.16 with the queue.
    """
    worker = getattr(PersistentAsyncCaller, "_persistent_process", None)
    return worker or getattr(getattr(queue, "persistent_caller", None), "process", None)


def save_options() -> dict[str, str]:
    """Options of ``dist_checkpointing.save``: 0.19 has to be told to use its own asynchronous writer instead
    of nvidia-resiliency-ext.
    """
    names = inspect.signature(dist_checkpointing.save).parameters
    return {"async_strategy": "mcore"} if "async_strategy" in names else {}


def serializable_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoint metadata without process groups, as megatron-core stores it with a checkpoint."""
    return _clean_metadata_for_serialization(metadata)


@contextlib.contextmanager
def communication_wrapped(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Inside, the bucket groups communicate through ``wrap`` of torch's manager of coalesced collectives."""
    original = param_and_grad_buffer._coalescing_manager
    param_and_grad_buffer._coalescing_manager = wrap(original)
    try:
        yield
    finally:
        param_and_grad_buffer._coalescing_manager = original


def parameter_overrides(config: OptimizerConfig) -> dict[ParamKey, dict]:
    """megatron-core's overrides of ``config`` for groups of parameters, in a form that survives a checkpoint.

    0.16 tells groups apart by ``is_decoupled_lr`` when it loads them, not by their learning rates: without
    it, all come back with the embedding's.
    """
    overrides = get_standard_config_overrides(config=config)
    for override in overrides.values():
        if "max_lr" in override:
            override["is_decoupled_lr"] = True
    return overrides


def optimizer_parts(optimizer: MegatronOptimizer) -> list[Any]:
    """megatron-core's optimizers inside ``optimizer``, which may chain several."""
    return getattr(optimizer, "chained_optimizers", [optimizer])


def main_parameter(parameter: torch.nn.Parameter) -> tuple[torch.Tensor | None, bool]:
    """The fp32 copy of a parameter, None where this rank has none; True when it is only this rank's shard."""
    return getattr(parameter, "main_param", None), getattr(parameter, "main_param_sharded", False)


def shard_start(part: Any, parameter: torch.nn.Parameter) -> int:
    """The first element of a parameter that this rank's shard holds; ``part``: the optimizer that has it."""
    _, sharded = main_parameter(parameter)
    return part._get_model_param_range_map(parameter)["param"].start if sharded else 0
