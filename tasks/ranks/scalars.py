"""Scalars of each iteration, written as TensorBoard events under Megatron's names.

A value is recorded where it is owned: the last stage owns the loss, so the last rank writes the events.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.module import param_is_not_shared

from tasks.cases import metrics
from tasks.ranks import mcore_compat
from tasks.ranks.device import allocated_bytes
from tasks.ranks.model import Chunks
from tasks.records.events import ATTEMPT_SUFFIX


def mean_loss(losses: list[torch.Tensor]) -> torch.Tensor:
    """The loss a token, over all micro-batches of all replicas; a scalar, on the last stage only.

    ``losses``: one tensor (loss sum, token count) a micro-batch.
    """
    total = torch.stack(losses).sum(dim=0)
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    torch.distributed.all_reduce(total, group=group)
    return total[0] / total[1]


def parameters_square(chunks: Chunks) -> torch.Tensor:
    """Sum of squares of this rank's share of all fp32 parameters, tied embeddings counted once; a scalar.

    The shares are the distributed optimizer's fp32 shards: each element lies on one rank. Without it every
    replica holds all of its stage's, and the first one's count.
    """
    own = parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
    unshared = (one for chunk in chunks for one in chunk.parameters() if param_is_not_shared(one))
    shards = [
        main.detach()
        for main, sharded in map(mcore_compat.main_parameter, unshared)
        if main is not None and (own or sharded)
    ]
    norms = torch._foreach_norm(shards) if shards else [torch.zeros((), device=torch.cuda.current_device())]
    return torch.stack(norms).square().sum()


class SumsOverRanks:
    """Numbers summed over all ranks of the job, those of several iterations in one collective.

    A collective in every iteration made all ranks wait for each other: 3 % of a step on a CPU.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, dict[str, Any]]] = []

    def add(self, iteration: int, values: dict[str, Any]) -> None:
        """Keep this rank's ``values``: numbers, lists of numbers or scalar tensors, the same names and
        lengths on every rank."""
        self._kept.append((iteration, values))

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        """The sums of all iterations since the last call; a collective, so every rank must come here.

        In fp64, since the order in which a sum is made depends on what else is reduced with it: another
        scalar must not change this one's last bit.
        """
        kept, self._kept = self._kept, []
        if not kept:
            return []
        flat = [number for _, values in kept for value in values.values() for number in _numbers(value)]
        total = torch.tensor(flat, dtype=torch.float64, device=torch.cuda.current_device())
        torch.distributed.all_reduce(total)
        sums = iter(total.tolist())
        return [
            (iteration, {name: _like(value, sums) for name, value in values.items()})
            for iteration, values in kept
        ]


def _numbers(value: Any) -> list[float]:
    return value if isinstance(value, list) else [float(value)]


def _like(value: Any, numbers: Iterator[float]) -> Any:
    return [next(numbers) for _ in value] if isinstance(value, list) else next(numbers)


class Scalars:
    """Writes one iteration's values; does nothing on ranks that own none."""

    def __init__(self, args: argparse.Namespace, start_iteration: int, *, attempt: int = 0) -> None:
        self._writer = None
        if args.tensorboard_dir and args.rank == args.world_size - 1:
            from torch.utils.tensorboard import SummaryWriter

            # A restart within a phase logs some steps again: those of the attempt before are superseded.
            self._writer = SummaryWriter(
                args.tensorboard_dir,
                purge_step=start_iteration + 1,
                filename_suffix=ATTEMPT_SUFFIX.format(attempt),
            )

    def write(self, iteration: int, values: dict[str, Any]) -> None:
        """Record ``values`` (name to number) at ``iteration``; on return the file has them, so that a kill in
        a later step cannot lose them.
        """
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), iteration)
        self._writer.flush()

    def close(self) -> None:
        """Write everything out."""
        if self._writer is not None:
            self._writer.close()


def memory_scalars(earlier_peak: int) -> dict[str, int]:
    """Bytes that this rank has allocated on its device now and at most so far.

    ``earlier_peak``: the peak before the device's record of it was reset.
    """
    allocated = allocated_bytes()
    return {
        metrics.ALLOCATED.name: allocated["current"],
        metrics.MAX_ALLOCATED.name: max(earlier_peak, allocated["peak"]),
    }


def refuse_bad_loss(loss: float, iteration: int) -> None:
    """Refuse a loss that is not finite.

    Raises:
        FloatingPointError: names the iteration.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"lm loss is {loss} at iteration {iteration}")
