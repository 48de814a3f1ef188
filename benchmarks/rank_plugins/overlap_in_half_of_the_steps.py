"""Evidence of overlap in half of the steps, drawn by lot, the same on all ranks; none of it in the others."""

from __future__ import annotations

import random

from megatron.core.distributed import param_and_grad_buffer

from tasks.ranks import overlap

STARTS = ("start_grad_sync", "start_param_sync")
FROM_TIME_TO_TIME = ("register_grad_ready", "finish_param_sync")
plain_manager = param_and_grad_buffer._coalescing_manager


class OverlapInHalfOfTheSteps(overlap.Overlap):
    """In the place of ``overlap.Overlap``; it changes over between two steps, in ``take``."""

    def __init__(self, chunks: overlap.Chunks) -> None:
        super().__init__(chunks)
        self._manager = param_and_grad_buffer._coalescing_manager
        groups = overlap.bucket_groups(chunks)
        self._starts = [(group, {name: vars(group)[name] for name in STARTS}) for group in groups]
        self._steps = 0

    def take(self) -> dict[str, float]:
        values = super().take()
        self._steps += 1
        watches = random.Random(self._steps).random() < 0.5  # in the next step
        param_and_grad_buffer._coalescing_manager = self._manager if watches else plain_manager
        for group, starts in self._starts:
            if watches:
                vars(group).update(starts)
            else:
                for name in STARTS + FROM_TIME_TO_TIME:
                    vars(group).pop(name, None)
        return values


overlap.Overlap = OverlapInHalfOfTheSteps
