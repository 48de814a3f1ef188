"""Memory is reserved before the first step on GPUs."""

from __future__ import annotations

import pytest

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case
from tasks.machine import gpu_memory
from tasks.machine.gpu_memory import MIB
from tests.program import answer_of

STAGES = pytest.mark.parametrize("is_last", [True, False], ids=["last stage", "other stage"])


@STAGES
def test_what_a_step_needs_is_asked_for_and_given_back(is_last: bool) -> None:
    case = load_case("gpt3_pp4_resume", platform_name="gpu1_h100")
    need = gpu_memory.estimate(parse_arguments(case.argv(), world_size=8))
    expected = round(need.activations + (need.logits / 2 if is_last else 0)) * MIB
    calls = answer_of("warm_up.calls_of_a_stage", is_last)
    blocks = [(size, alive) for kind, size, alive in calls if kind == "block"]
    assert blocks[0] == (expected, 1)
    # At once, for what is given back is taken again.
    assert blocks[1:] == [(MIB, count) for count in range(1, 65)]


def test_the_last_stage_asks_for_its_logits_too() -> None:
    last, other = (answer_of("warm_up.calls_of_a_stage", is_last)[1][1] for is_last in (True, False))
    assert last > 2 * other


@STAGES
def test_all_ranks_have_asked_before_one_goes_on_and_the_peak_is_that_of_before(is_last: bool) -> None:
    calls = answer_of("warm_up.calls_of_a_stage", is_last)
    assert calls[-3:] == [["barrier", [3], 0], ["peak", None, 0], ["answer", 77, 0]]
    assert calls[0] == ["asked", None, 0]
