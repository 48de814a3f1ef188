"""What this rank has allocated on its device."""

from __future__ import annotations

import torch


def allocated_bytes() -> dict[str, int]:
    """Bytes ``current`` and at ``peak``.

    torch keeps its statistics nested; ``memory_stats`` and ``memory_allocated`` flatten and sort all of them.
    """
    return torch.cuda.memory_stats_as_nested_dict()["allocated_bytes"]["all"]
