"""The rank plugin that tries ways of a step by lot: every way as often, each against the first."""

from __future__ import annotations

from tests.program import answer_of


def test_every_way_has_as_many_steps_in_turns_of_several_orders() -> None:
    found = answer_of("ways.steps_and_turns")
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
