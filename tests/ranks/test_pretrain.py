"""Settings of a rank before its groups exist, and the order of what it does."""

from __future__ import annotations

import pytest

from tests.program import answer_of

WATCHED = ("watched", "train", "no longer watched")


@pytest.mark.parametrize(("platform", "default"), [("gpu1_h100", False), ("cpu_x86_64", True)])
def test_gpus_are_spared_what_costs_time_and_changes_no_result(platform: str, default: bool) -> None:
    """Backward passes stay in their thread, and new tensors are not filled."""
    found = answer_of("pretrain.settings_before_groups", platform)
    assert found == {"deterministic": True, "filled": default, "threads": default}


@pytest.mark.parametrize(
    ("stage", "calls"),
    [
        ("first", ["first read_ahead 4", "schedule", "optimizer step"]),
        ("middle", ["schedule", "optimizer step"]),
        ("last", ["schedule", "last read_ahead 4", "optimizer step"]),
    ],
)
def test_the_first_stage_and_the_last_one_read_what_comes_next_where_they_would_wait(
    stage: str, calls: list[str]
) -> None:
    assert answer_of("pretrain.reads_in_a_step", stage) == calls


@pytest.mark.parametrize(
    ("backend", "peak", "expected"),
    [
        ("nccl", 7, ["load", "reserve", *WATCHED, "finish, peak 7"]),
        ("nccl", 3, ["load", "reserve", *WATCHED, "finish, peak 5"]),
        ("gloo", 7, ["load", *WATCHED, "finish, peak 5"]),
    ],
)
def test_memory_of_a_gpu_is_reserved_between_loading_and_the_first_step(
    backend: str, peak: int, expected: list[str]
) -> None:
    assert answer_of("pretrain.order_of_a_run", backend, peak) == expected


def test_what_is_checked_and_saved_after_the_first_step_is_gathered_before_too() -> None:
    """Its own shards are new by then, those of the other replicas old, as after every step."""
    of_a_step = "{0} gathered,{0} hashes,{0} gathered,{0} saved".format
    assert answer_of("pretrain.gathers_of_two_steps") == [
        "hooks off",
        "5 hashes",
        "step 6, aligned: None",
        *of_a_step(6).split(","),
        "step 7, aligned: yes",
        *of_a_step(7).split(","),
    ]
