"""Differences between the supported versions of megatron-core, 0.16 and 0.19, and its private names in use.

A new megatron-core starts with this file: each function says which version does what.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from typing import Any

import megatron.core
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, PersistentAsyncCaller
from megatron.core.dist_checkpointing.utils import _clean_metadata_for_serialization

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
