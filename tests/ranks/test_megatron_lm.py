"""Megatron-LM's loop watched and served from outside; the loop is made up, so either environment has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import answer_of


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A training from the start and one restarted after iteration 3, and the evidence of both."""
    return answer_of("loop.stories", str(tmp_path_factory.mktemp("loop")))


def names(calls: list) -> list[str]:
    return [name for name, _ in calls]


def test_a_loop_that_lacks_functions_is_refused_before_anything_is_wrapped(tmp_path: Path) -> None:
    found = answer_of("loop.lacks_functions", str(tmp_path))
    assert "has no training_log, save_checkpoint, load_checkpoint:" in found["error"]
    assert found["untouched"]


@pytest.mark.parametrize(("story", "first"), [("from the start", 0), ("restarted", 3)])
def test_the_loop_is_called_as_before_and_answers_as_before(told: dict, story: str, first: int) -> None:
    calls, answers = told[story]["calls"], told[story]["answers"]
    assert names(calls) == [
        "load_checkpoint",
        "train_step",
        "training_log",
        "training_log",
        "save_checkpoint",
    ]
    assert [seen["arguments"] for _, seen in calls] == [
        [3, ["strict"]],
        [2, ["iteration"]],
        [2, ["report_memory_flag"]],
        [2, []],
        [5, ["context"]],
    ]
    assert answers == [[first, 17], "what it answers", True, True, None]


@pytest.mark.parametrize(("story", "first"), [("from the start", 0), ("restarted", 3)])
def test_the_board_shows_what_a_hang_would_be_in(told: dict, story: str, first: int) -> None:
    during = [seen["row"][:3] for _, seen in told[story]["calls"]]
    assert during[1:] == [
        [first, "forward and backward", True],
        [first + 1, "logging", True],
        [first + 1, "logging", True],
        [first + 1, "saving checkpoint", True],
    ]
    assert during[0][1:] == ["loading checkpoint", True]
    assert [row[:2] for row in told[story]["after"]] == [[first, "starting"], *[[first + 1, "logging"]] * 4]


def test_the_loss_is_shown_by_the_rank_that_has_it(told: dict) -> None:
    assert [row[3] for row in told["from the start"]["after"]] == [None, None, 2.5, None, None]


def test_adam_has_a_state_before_the_load_and_its_steps_after_it(told: dict) -> None:
    for story in ("from the start", "restarted"):
        assert told[story]["calls"][0][1]["adam"] == ["exp_avg", "exp_avg_sq", "step"]
    assert told["from the start"]["steps"] == 0.0
    assert told["restarted"]["steps"] == 3.0


def test_digests_are_of_what_is_saved_and_of_what_was_loaded(told: dict) -> None:
    first, restarted = told["from the start"]["calls"], told["restarted"]["calls"]
    assert first[3][1]["files"] == [], "nothing was loaded"
    assert first[4][1]["files"] == ["saved_0000001_rank1.json"], (
        "before it is saved: the save changes nothing"
    )
    assert "loaded_0000003_rank1.json" not in restarted[0][1]["files"]
    assert "loaded_0000003_rank1.json" in restarted[1][1]["files"]
    written = told["written"]
    assert sorted(written) == [
        "loaded_0000003_rank1.json",
        "saved_0000001_rank1.json",
        "saved_0000004_rank1.json",
        "seconds_0000001_rank1.json",
        "seconds_0000003_rank1.json",
        "seconds_0000004_rank1.json",
    ]
    saved, loaded = written["saved_0000001_rank1.json"], written["loaded_0000003_rank1.json"]
    assert "next_batch" not in saved
    assert saved["consumed_samples"] == "24"
    assert saved["optimizer_steps"] != loaded["optimizer_steps"]
    assert saved["parameters"] == loaded["parameters"]
    assert set(written["seconds_0000004_rank1.json"]) == {"load", "save"}


def test_a_cpu_needs_no_cuda_and_moves_no_random_generator() -> None:
    """Neither a loader's seed nor the warm-up of fused functions draws from it."""
    assert answer_of("loop.served") == {
        "initialised": [{"store": None, "allow_no_cuda": True}],
        "batches": [[0, 1], [2, 3], [4, 5]],
        "pinned": False,
        "random state is unmoved": True,
        "keeps a generator": True,
    }


def test_local_ranks_share_the_gpus() -> None:
    assert answer_of("loop.devices_of_four_gpus") == [0, 1, "cuda:5"]


def test_a_checkout_without_compiled_helpers_gets_those_of_the_wheel(tmp_path: Path) -> None:
    found = answer_of("loop.helpers", str(tmp_path))
    assert (found["of the wheel"], found["usable"]) == (True, True)
    assert "install the pinned megatron-core wheel" in found["missing"]


def test_a_program_is_run_as_main_after_the_plugins_which_see_it_watched(tmp_path: Path) -> None:
    program = "import sys, order; order.order.append([__name__, *sys.argv[1:]])"
    assert answer_of("loop.run", str(tmp_path), program) == {
        "error": "",
        "order": ["partial", ["__main__", "--seed", "1"]],
    }


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("SystemExit(0)", ""),
        ("SystemExit", ""),
        ("SystemExit(3)", "pretrain_gpt.py ended with exit code 3"),
    ],
)
def test_only_an_exit_code_other_than_0_is_a_failure(tmp_path: Path, end: str, error: str) -> None:
    assert answer_of("loop.run", str(tmp_path), f"raise {end}")["error"] == error
