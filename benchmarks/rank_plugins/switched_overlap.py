"""The evidence of overlap, gathered or not, for what compares a step with it to a step without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from megatron.core.distributed import param_and_grad_buffer

from tasks.ranks import overlap

STARTS = ("start_grad_sync", "start_param_sync")
FROM_TIME_TO_TIME = ("register_grad_ready", "finish_param_sync")
plain_manager = param_and_grad_buffer._coalescing_manager


class SwitchedOverlap(overlap.Overlap):
    """In the place of ``overlap.Overlap``; where it is off, megatron-core's own methods are in force."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with super().installed():
            self._manager = param_and_grad_buffer._coalescing_manager
            self._starts = [(group, {name: vars(group)[name] for name in STARTS}) for group in self._groups]
            self._watches = True
            yield

    def switch(self, on: bool) -> None:
        """Gather it from now on, or no longer; between two steps."""
        self._watches = on
        param_and_grad_buffer._coalescing_manager = self._manager if on else plain_manager
        for group, starts in self._starts:
            if on:
                vars(group).update(starts)
            else:
                for name in STARTS + FROM_TIME_TO_TIME:
                    vars(group).pop(name, None)

    def take(self) -> dict[str, float]:
        """What it is of a step; zeros where it was off."""
        values = super().take()
        self.switch(self._watches)
        return values
