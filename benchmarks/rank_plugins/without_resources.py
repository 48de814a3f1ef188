"""No measuring of memory and relative speed: no piece of work, no stopwatch."""

from __future__ import annotations

import argparse
from typing import Any

from tasks.ranks import resources


class NoResources:
    """In the place of ``resources.Resources``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._world_size = args.world_size

    def begin_step(self) -> None:
        pass

    def end_step(self) -> None:
        pass

    def compute_piece(self) -> None:
        pass

    def take(self, iteration: int) -> dict[str, Any]:
        seconds = {"forward": 1.0, "backward": 1.0, "piece": 1.0, "step": 1.0}
        return seconds | {resources.MEMORY_GROWTH: [0] * self._world_size}


resources.Resources = NoResources
