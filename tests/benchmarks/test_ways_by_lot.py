"""The rank plugin that tries ways of a step by lot: every way as often, each against the first."""

from __future__ import annotations

from tests.program import answer_of

PROGRAM = """
import json, os, runpy
from collections import Counter

os.environ |= {"RANK": "7", "WORLD_SIZE": "8", "WAYS": "as-it-is,no-collector+long-turns,read-on-demand"}
from tasks.ranks import pretrain, scalars

written = []
scalars.Scalars.write = lambda writer, number, values: written.append(number)
plugin = runpy.run_path("benchmarks/rank_plugins/ways_by_lot.py")
taken = {"as-it-is": 1.0, "no-collector+long-turns": 1.5, "read-on-demand": 0.9}
chosen = {number: plugin["way_of"](number) for number in range(1, 251)}
for number, way in chosen.items():
    slow = number < 11 or number % 5 == 1  # warming up, or the first after a change
    scalars.Scalars.write(None, number, {"iteration-time": 100.0 if slow else taken[way[1]] + number / 1e6})
    scalars.Scalars.write(None, number, {"lm loss": 1.0})
orders = {turn: [] for turn in range(16)}
for number, way in chosen.items():
    if number >= 11 and number % 5 == 1:
        orders[way[0]].append(way[1])
found = {
    "before": [way for number, way in chosen.items() if number < 11],
    "steps": Counter(way[1] for way in chosen.values() if way),
    "turns": [sorted(order) == sorted(taken) for order in orders.values()],
    "orders": len({tuple(order) for order in orders.values()}),
    "written": len(written),
    "lines": [plugin["line_of"](way) for way in taken],
}
print(json.dumps(found))
"""


def test_every_way_has_as_many_steps_in_turns_of_several_orders() -> None:
    found = answer_of(PROGRAM)
    assert found["before"] == [None] * 10
    assert set(found["steps"].values()) == {80}
    assert all(found["turns"])
    assert found["orders"] > 3
    assert found["written"] == 500
    first, second, third = found["lines"]
    assert first.startswith("as-it-is: 64 steps, median 1.0001 s")
    assert "median 1.5001 s" in second
    assert second.endswith("against as-it-is +50.0 % +- 0.0")
    assert third.endswith("against as-it-is -10.0 % +- 0.0")
