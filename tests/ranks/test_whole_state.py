"""Digests that do not depend on the layout of ranks, and depend on everything else."""

from __future__ import annotations

import pytest

from tasks.judge.restart_evidence import OF_NOTHING
from tests.program import answer_of

DTYPES = pytest.mark.parametrize("dtype", ["bfloat16", "float32"])


@DTYPES
def test_sums_do_not_depend_on_who_holds_an_element(dtype: str) -> None:
    found = answer_of("whole_state.sum_of_parts", dtype)
    assert (found["parts"] - found["whole"]) % 2**64 == 0


@DTYPES
def test_sums_depend_on_value_order_place_and_parameter(dtype: str) -> None:
    sums = answer_of("whole_state.sums_of_others", dtype)
    assert len(set(sums.values())) == len(sums) == 8, sums


@DTYPES
def test_a_changed_bit_changes_half_of_the_bits_of_a_sum(dtype: str) -> None:
    found = answer_of("whole_state.sums_of_single_changes", dtype)
    assert found["sums"] == found["elements"] == 185
    assert 28 < found["bits"] < 36


def test_a_layer_is_named_by_its_number_in_the_model() -> None:
    assert answer_of("whole_state.names_of_parameters") == [
        "decoder.layers.1.weight",
        "decoder.layers.11.weight",
        "output_layer.weight",
        "decoder.layers.5.weight",
        "output_layer.weight",
    ]


def test_digests_of_nothing_are_known_as_such() -> None:
    assert {*answer_of("whole_state.digests_of_nothing")} <= {*OF_NOTHING}


def test_a_digest_is_of_the_whole_job_whoever_holds_what() -> None:
    assert answer_of("whole_state.digests_that_differ") == {
        "two replicas": [],
        "tied": [],
        "a copy": [],
        "a moment": ["whole_exp_avg_sq"],
        "a hole": ["whole_master_weights", "whole_exp_avg", "whole_exp_avg_sq"],
        "a weight": ["whole_parameters"],
    }


def test_state_of_a_parameter_that_no_optimizer_keeps_is_an_error() -> None:
    lost = answer_of("whole_state.state_that_no_optimizer_keeps")
    assert lost == "no optimizer keeps the state of a parameter of this rank"
