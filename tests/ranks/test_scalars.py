"""Sums over ranks, on two real ranks of a Gloo group; each rank's share of the norm of all parameters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.program import answer_of


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return answer_of("scalars.sums_of_two_ranks", str(tmp_path_factory.mktemp("sums")))


def test_every_rank_gets_the_sum_of_each_iteration_in_the_shape_that_it_gave(
    answers: list[dict[str, Any]],
) -> None:
    for answer in answers:
        assert answer["taken"] == [
            [7, {"count": 15.0, "places": [5.0, 0.0], "part": 2 * (0.1 * 7)}],
            [8, {"count": 17.0, "places": [5.0, 0.0], "part": 2 * (0.1 * 8)}],
        ]


def test_iterations_share_one_collective_and_nothing_needs_none(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert answer["nothing"] == answer["after"] == []
        assert answer["collectives"] == [8]


def test_each_element_counts_once_and_tied_embeddings_once() -> None:
    first, second = (answer_of("scalars.parameters_square", rank) for rank in (0, 1))
    assert first == {"distributed": 9.0 + 4.0, "plain": 25.0 + 4.0}
    assert second == {"distributed": 16.0, "plain": 0.0}


@pytest.mark.parametrize(("earlier", "most"), [(0, 70), (90, 90)])
def test_the_most_that_was_allocated_is_of_the_time_before_the_steps_too(earlier: int, most: int) -> None:
    """Loading a checkpoint may need more than a step."""
    expected = {"mem-allocated-bytes": 40, "mem-max-allocated-bytes": most}
    assert answer_of("scalars.memory", earlier) == expected


def test_the_loss_is_that_of_a_token_over_micro_batches_and_replicas() -> None:
    assert answer_of("scalars.mean_loss_of_two_replicas") == (6 + 4 + 20) / (2 + 3 + 5)


def test_the_last_rank_writes_and_what_it_wrote_is_in_the_file() -> None:
    written = answer_of("scalars.written_by_eight_ranks")
    assert written == [[7, "events", 51, ".attempt2"], ["lm loss", 2.5, 51], "flushed"]


def test_a_loss_that_is_no_finite_number_is_refused() -> None:
    assert answer_of("scalars.refused_losses") == [
        None,
        *(f"lm loss is {loss} at iteration 3" for loss in ("nan", "inf", "-inf")),
    ]
