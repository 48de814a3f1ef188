"""The processes that a rank starts for its checkpoints, and the order in which it saves, checks and loads."""

from __future__ import annotations

import pytest

from tasks.launch.failures import NO_SPACE, kind_of
from tests.program import answer_of

READ = [["read", "1"], ["restored"]]


def test_worker_and_its_results_are_forked_and_it_may_take_file_descriptors_of_its_rank() -> None:
    may_trace = "0x59616d61"  # PR_SET_PTRACER of linux/prctl.h
    expected = [[3, "fork"], ["results", "fork"], [may_trace, 4321]]
    assert answer_of("checkpoint.started", "able", {}) == expected


@pytest.mark.parametrize("changes", [{"save": None}, {"use_persistent_ckpt_worker": False}])
def test_nothing_is_started_that_is_not_used(changes: dict[str, object]) -> None:
    assert answer_of("checkpoint.started", "able", changes) == []


def test_no_worker_where_megatron_core_has_none() -> None:
    assert answer_of("checkpoint.started", "older", {}) == []


def test_a_save_whose_worker_has_ended_is_not_waited_for() -> None:
    ended = "the checkpoint worker of this rank ended before its work (exit code 1)"
    answer = answer_of("checkpoint.ends_of_saves")
    assert answer == {
        "two left": ["asked", "asked", "closed"],
        "step": ["asked"],
        "ended": ["asked", ended],
        "ended, newer": ["asked", ended],
        "ended, step": [ended],
        "no folder yet": [ended],
        "full": [ended.replace("1)", "1, No space left on device: tasks)")],
    }
    assert kind_of(answer["full"][0]) is NO_SPACE


def test_the_tracker_is_written_after_the_manifest_and_by_one_rank() -> None:
    assert answer_of("checkpoint.completed", 0) == [["manifest", 4], ["tracker", 4]]
    assert answer_of("checkpoint.completed", 1) == []


def test_a_failed_rank_waits_for_no_save() -> None:
    assert answer_of("checkpoint.aborted") == [["closed", {"abort": True}]]


@pytest.mark.parametrize(
    ("changes", "before"), [({}, ["newest"]), ({"ckpt_step": 6}, ["verified", 6])], ids=["newest", "named"]
)
def test_what_is_chosen_is_checked_and_not_checked_again(
    changes: dict[str, object], before: list[object]
) -> None:
    assert answer_of("checkpoint.chosen_and_loaded", changes) == {
        "chosen": 6,
        "before": [before],
        "samples": 48,
        "while loading": READ,
    }


def test_nothing_is_read_that_was_not_checked() -> None:
    found = answer_of("checkpoint.loaded_without_choice", 6)
    assert found == {"error": None, "calls": [["verified", 6], *READ]}


def test_where_nothing_is_to_be_loaded_nothing_is_checked() -> None:
    found = answer_of("checkpoint.chosen_and_loaded", {"load": None})
    assert found == {"chosen": None, "before": [], "samples": None, "while loading": []}


def test_a_checkpoint_that_holds_another_iteration_is_not_restored() -> None:
    found = answer_of("checkpoint.loaded_without_choice", 4)
    assert found["error"].endswith("iter_0000006 holds iteration 4, not 6")
    assert found["calls"][-1] == ["read", "1"]


def test_hooks_are_off_while_parameters_are_gathered_and_on_again_after_an_error() -> None:
    assert answer_of("checkpoint.hooks_around_gathering", True) == ["off", "inside", "on"]
    assert answer_of("checkpoint.hooks_around_gathering", False) == ["inside"]


def test_on_another_layout_random_states_may_be_left_over() -> None:
    found = answer_of("checkpoint.read_with_keys_left_over", [], ["rng_state/shard_0"])
    assert found == {"is loading": True}


@pytest.mark.parametrize(
    ("missing", "unexpected"), [(["model.weight"], []), ([], ["model0.bias"])], ids=["missing", "unexpected"]
)
def test_on_another_layout_nothing_else_may_be_left_over(missing: list[str], unexpected: list[str]) -> None:
    (key,) = missing + unexpected
    error = answer_of("checkpoint.read_with_keys_left_over", missing, unexpected)
    assert error == f"folder: not in both, the checkpoint and this model: {key}"
