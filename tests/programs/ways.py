"""The rank plugin that tries ways of a step by lot."""

from __future__ import annotations

import os
import runpy
from collections import Counter
from typing import Any

from tasks.ranks import scalars

TAKEN_S = {"as-it-is": 1.0, "no-collector+long-turns": 1.5, "read-on-demand": 0.9}


def steps_and_turns() -> dict[str, Any]:
    """The ways of 250 steps, the first of each turn a slow one, and the lines that are written of them."""
    # Not at the top: the plugin reads these when it is executed.
    os.environ |= {"RANK": "7", "WORLD_SIZE": "8", "WAYS": ",".join(TAKEN_S)}
    written: list[int] = []
    scalars.Scalars.write = lambda writer, number, values: written.append(number)
    plugin = runpy.run_path("benchmarks/rank_plugins/ways_by_lot.py")
    chosen = {number: plugin["way_of"](number) for number in range(1, 251)}
    orders: dict[int, list[str]] = {turn: [] for turn in range(16)}
    for number, way in chosen.items():
        begins = number % 5 == 1
        seconds = 100.0 if number < 11 or begins else TAKEN_S[way[1]] + number / 1e6  # warming up, or changed
        scalars.Scalars.write(None, number, {"iteration-time": seconds})
        scalars.Scalars.write(None, number, {"lm loss": 1.0})
        if number >= 11 and begins:
            orders[way[0]].append(way[1])
    return {
        "before": [way for number, way in chosen.items() if number < 11],
        "steps": Counter(way[1] for way in chosen.values() if way),
        "turns": [sorted(order) == sorted(TAKEN_S) for order in orders.values()],
        "orders": len({tuple(order) for order in orders.values()}),
        "written": len(written),
        "lines": [plugin["line_of"](way) for way in TAKEN_S],
    }
