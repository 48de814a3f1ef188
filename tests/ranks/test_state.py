"""Digests see any change of the state; random states come back, each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import answer_of


@pytest.mark.parametrize("generator", ["Python", "NumPy", "torch", "device", "tracker"])
def test_a_draw_of_any_generator_shows_and_is_taken_back(generator: str) -> None:
    assert answer_of("state.draw_and_restore", generator) == {
        "shows": True,
        "digest is back": True,
        "draws again": True,
    }


def test_a_digest_is_of_values_kind_and_shape_and_of_nothing_else() -> None:
    found = answer_of("state.digests_of_tensors")
    assert found["digest"] == found["same"]
    assert len({found["digest"], *found["others"].values()}) == 1 + len(found["others"]), found["others"]


def test_steps_are_those_of_every_parameter_or_of_the_group() -> None:
    assert answer_of("state.optimizer_steps") == [[5.0], [5.0, 6.0], [7.0]]


def test_each_part_of_the_state_shows_in_the_digest_of_its_name() -> None:
    assert answer_of("state.names_that_differ") == [
        ["optimizer_steps"],
        ["exp_avg_sq"],
        ["scheduler"],
        ["next_batch"],
        ["consumed_samples"],
        ["parameters"],
    ]


def test_evidence_is_whole_and_named_by_what_it_is_of(tmp_path: Path) -> None:
    written = answer_of("state.written_evidence", str(tmp_path / "evidence"))
    assert written == {"saved_0000050_rank3.json": {"rng": "a"}}


def test_the_end_of_the_data_is_a_state_like_any_other() -> None:
    """A data set with no sample more than training takes has no next batch when the last step is saved."""
    digests = answer_of("state.digests_of_parts")
    batches = {name: digests[name]["next_batch"] for name in ("next", "same", "other", "end")}
    assert batches["next"] == batches["same"]
    assert len(set(batches.values())) == 3


def test_an_optimizer_that_counts_no_step_proves_nothing() -> None:
    digests = answer_of("state.digests_of_parts")
    assert digests["no step"]["optimizer_steps"] == ""
    assert len({digests[name]["optimizer_steps"] for name in ("next", "other step", "no step")}) == 3
