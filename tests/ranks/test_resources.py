"""Memory growth and computing time in pieces of work."""

from __future__ import annotations

import itertools

import pytest

from tests.program import answer_of


@pytest.fixture(scope="module")
def leaking() -> dict:
    """Nine steps that leak memory."""
    return answer_of("resources.leaking_steps")


@pytest.fixture(scope="module")
def rare() -> dict:
    """Thirteen steps with a piece of work after every fourth."""
    return answer_of("resources.pieces_every_four_steps")


def test_growth_counts_from_the_warm_up_on_and_lies_in_the_place_of_the_rank(leaking: dict) -> None:
    growth = [values["mem-growth-bytes"] for values in leaking["taken"]]
    assert [values[1] for values in growth[:5]] == [0.0] * 5
    assert all(values[0] == values[2] == values[3] == 0.0 for values in growth)
    steps = [later[1] - earlier[1] for earlier, later in itertools.pairwise(growth[4:])]
    assert all(3.5 * 2**20 < step < 5 * 2**20 for step in steps), steps


def test_memory_that_is_shared_is_no_growth_and_the_kind_that_grew_most_counts() -> None:
    assert answer_of("resources.growth_by_shared_memory_bytes") < 2**25
    assert answer_of("resources.growth_of_two_kinds") == [0, 4]


def test_computing_counts_and_waiting_does_not(leaking: dict) -> None:
    for values in leaking["taken"]:
        assert 0.01 <= values["forward"] < 0.018
        assert 0.02 <= values["backward"] < 0.035
        assert 0.03 <= values["step"] < 0.06
        assert 0 < values["piece"] < 0.2


def test_the_piece_of_work_uses_no_random_numbers(leaking: dict) -> None:
    assert leaking["untouched"] is True


def test_scalars_are_ratios_and_the_largest_growth() -> None:
    found = answer_of("resources.scalars_of_sums")
    assert found["scalars"] == {
        "mem-growth-bytes": 7.0,
        "relative-forward-time": pytest.approx(60.0),
        "relative-backward-time": pytest.approx(30.0),
        "relative-step-time": pytest.approx(120.0),
    }
    assert found["left"] == [], "what was summed is no scalar of the job"


def test_a_piece_that_is_not_due_leaves_the_last_ones_time(rare: dict) -> None:
    assert rare["pieces"] == [4, 8, 12]
    assert all(values["piece"] > 0 for values in rare["taken"])


def test_a_piece_that_was_disturbed_does_not_count() -> None:
    assert all(0.001 <= seconds < 0.01 for seconds in answer_of("resources.pieces_with_an_outlier"))


def test_the_piece_that_loads_its_kernels_is_not_timed() -> None:
    assert 0 < answer_of("resources.first_piece_s") < 0.05


def test_passes_are_timed_while_warming_up_and_then_with_each_piece(rare: dict) -> None:
    """Step N's pass takes N ms; in step 12 there is none, which is no reason to show another step's."""
    whole_ms = [int(values["forward"] * 1000) for values in rare["taken"]]
    assert whole_ms == [1, 2, 3, 4, 5, 5, 5, 8, 8, 8, 8, 0, 0]


def test_the_schedules_have_their_own_functions_again_after_an_error() -> None:
    assert answer_of("resources.passes_after_uninstalling") is True
