"""Measurements of a rank around each step, apart from the step itself, and the scalars made of them."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer

from tasks.cases import metrics
from tasks.ranks import model, overlap, resources, scalars
from tasks.ranks.device import EventPool
from tasks.ranks.model import Chunks


class StepMeasurements:
    """Time, memory, overlap and norms of one rank's steps, while ``installed``.

    ``earlier_peak_bytes``: peak of the device's memory before its record was reset.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        chunks: Chunks,
        optimizer: MegatronOptimizer,
        *,
        earlier_peak_bytes: int = 0,
    ) -> None:
        self._args = args
        self._chunks = chunks
        self._optimizer = optimizer
        self._earlier_peak_bytes = earlier_peak_bytes
        self.overlap = overlap.Overlap(chunks)
        self._resources = resources.Resources(args)
        self._sums = scalars.SumsOverRanks()
        self._events = EventPool()
        self._begin: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, megatron-core's passes are timed and its communication is watched."""
        with self.overlap.installed(), self._resources.installed():
            yield

    def begin_step(self) -> None:
        """Call it before the first forward pass of a step."""
        self._begin = self._events.record()
        self._resources.begin_step()

    def end_step(self) -> None:
        """Call it after the optimizer's step."""
        self._resources.end_step()

    def scalars(
        self, iteration: int, losses: list[torch.Tensor], grad_norm: float, num_zeros: int | None
    ) -> dict[str, Any]:
        """Scalars of the step that has ended; empty on ranks that own no loss. All ranks call this.

        ``losses``: one tensor (loss sum, token count) a micro-batch, on the last stage.
        """
        self._keep_for_sums(iteration)
        if not losses:
            self._events.take_back([self._begin])
            return {}
        loss = float(scalars.mean_loss(losses))
        end = self._events.record()
        end.synchronize()
        values = {
            metrics.LM_LOSS.name: loss,
            metrics.GRAD_NORM.name: grad_norm,
            metrics.ITERATION_TIME.name: self._begin.elapsed_time(end) / 1000.0,
        } | model.learning_rates(self._args, self._optimizer)
        if self._args.log_num_zeros_in_grad:
            values[metrics.NUM_ZEROS.name] = num_zeros
        if self._args.log_memory_to_tensorboard:
            values |= scalars.memory_scalars(self._earlier_peak_bytes)
        self._events.take_back([self._begin, end])
        return values

    def compute_piece(self) -> None:
        """Compute the fixed piece of work that times are relative to; outside of every step."""
        self._resources.compute_piece()

    def sums(self) -> list[tuple[int, dict[str, float]]]:
        """Scalars of the whole job by iteration, since the last call; a collective of all ranks."""
        return [(iteration, self._of_the_job(sums)) for iteration, sums in self._sums.take()]

    def _keep_for_sums(self, iteration: int) -> None:
        values = self.overlap.take() | self._resources.take(iteration)
        if self._args.log_params_norm:
            values[metrics.PARAMS_NORM.name] = scalars.parameters_square(self._chunks)
        self._sums.add(iteration, values)

    def _of_the_job(self, sums: dict[str, Any]) -> dict[str, float]:
        if metrics.PARAMS_NORM.name in sums:
            sums[metrics.PARAMS_NORM.name] = math.sqrt(sums[metrics.PARAMS_NORM.name])
        for metric in (metrics.HIDDEN_TIME, metrics.EXPOSED_TIME):
            sums[metric.name] /= self._args.world_size
        relative = resources.scalars_from(sums)  # takes what it uses out of the sums
        return sums | relative
