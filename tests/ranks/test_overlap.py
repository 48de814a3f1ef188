"""Evidence of overlap on megatron-core's own bucket groups: three layers, a bucket each, one rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests.program import answer_of


def three_steps(
    *plugins: Path, grad: bool = True, gather: bool = True, watched: bool = True, buckets: int = 3
) -> tuple[list[float], list[dict[str, float]]]:
    """A digest of the gradients and what was counted, a step each."""
    found = answer_of("overlap.three_steps", grad, gather, watched, [*map(str, plugins)])
    assert found["buckets"] == buckets
    return [digest for digest, _ in found["steps"]], [counts for _, counts in found["steps"]]


def counted(name: str, counts: list[dict[str, float]]) -> list[float]:
    return [step[name] for step in counts]


@pytest.fixture(scope="module")
def overlapped() -> tuple[list[float], list[dict[str, float]]]:
    return three_steps()


def test_all_reductions_but_that_of_the_last_gradients_begin_early(overlapped) -> None:
    # The first batch shows megatron-core which gradients to wait for, so nothing can begin in it.
    assert counted("overlap-grad-buckets", overlapped[1]) == [0, 2, 2]


def test_all_gathers_but_that_of_the_first_parameters_begin_ahead(overlapped) -> None:
    assert counted("overlap-param-gathers", overlapped[1]) == [2, 2, 2]


def test_times_are_measured(overlapped) -> None:
    for step in overlapped[1]:
        assert 0 < step["overlap-hidden-time"] < 10
        assert 0 < step["overlap-exposed-time"] < 10


def test_watching_changes_no_gradient(overlapped) -> None:
    assert three_steps(watched=False)[0] == overlapped[0]


@pytest.mark.parametrize("fails", [False, True])
def test_megatron_core_is_as_before_once_watching_has_ended(fails: bool) -> None:
    assert answer_of("overlap.left_by_watching", fails) == {
        "watched": ["start_grad_sync", "start_param_sync", "finish_param_sync"],
        "inside": False,
        "left": [],
        "manager as before": True,
    }


def test_reductions_without_overlap_are_not_early() -> None:
    # megatron-core then makes one bucket of all, and its one gather cannot be ahead.
    _, counts = three_steps(grad=False, buckets=1)
    assert counted("overlap-grad-buckets", counts) == [0, 0, 0]
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_all_of_a_synchronous_communication_is_exposed() -> None:
    _, counts = three_steps(grad=False, gather=False, buckets=1)
    assert counted("overlap-hidden-time", counts) == [0, 0, 0]
    assert all(0 < seconds < 10 for seconds in counted("overlap-exposed-time", counts))


def test_gathers_without_overlap_are_not_ahead() -> None:
    _, counts = three_steps(gather=False)
    assert counted("overlap-grad-buckets", counts) == [0, 2, 2]
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_a_reduction_that_is_waited_for_at_once_is_not_early() -> None:
    _, counts = three_steps(REPOSITORY / "tests" / "faults" / "grad_overlap_waited_for.py")
    assert counted("overlap-grad-buckets", counts) == [0, 0, 0]


def test_a_gather_that_its_use_does_not_wait_for_does_not_count() -> None:
    _, counts = three_steps(REPOSITORY / "tests" / "faults" / "parameters_used_before_gathered.py")
    assert counted("overlap-param-gathers", counts) == [0, 0, 0]


def test_a_handle_that_is_waited_for_twice_counts_once() -> None:
    """Hidden is the time until the wait, exposed the time in it."""
    found = answer_of("overlap.wait_twice")
    assert found == {"waits": 2, "seen": [True], "hidden": 1.0, "exposed": 0.5}
