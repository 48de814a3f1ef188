"""The rules of flags that are not tried through whole cases in test_case.py."""

from __future__ import annotations

import pytest

from tasks.cases.case import load_case
from tasks.util.exits import UsageError

HERE = {"platform_name": "cpu_x86_64"}


def test_data_that_would_not_be_read_are_refused() -> None:
    """With CORPUS the prefix of its dataset was put in the flag's place, whatever stood there."""
    with pytest.raises(UsageError, match=r"'/my/own' would not be read.* give --data-path PREFIX"):
        load_case("gpt3_pp4", **HERE, overrides={"data-path": "/my/own"})
    assert load_case("gpt3_pp4", **HERE, overrides={"data-path": "${CORPUS_PREFIX}"}).corpus
    assert load_case("gpt3_pp4_resume_common_pile", **HERE).corpus is None


@pytest.mark.parametrize("text", ["0", "-1", "2.7", "[3]", "true"])
@pytest.mark.parametrize("flag", ["exit-interval", "check-weight-hash-across-dp-replicas-interval"])
def test_a_cadence_is_a_count(flag: str, text: str) -> None:
    """--exit-interval -1 trained one step, to step -1; --exit-interval 0 was none."""
    with pytest.raises(UsageError, match=f"--{flag}: .* must be a whole number of at least 1"):
        load_case("gpt3_pp4", **HERE, overrides={flag: text})


def test_one_virtual_stage_is_not_interleaved() -> None:
    """Megatron then needs no number of micro-batches that its stages divide."""
    six = {"global-batch-size": "12"}
    with pytest.raises(UsageError, match="12 gives 6 micro-batches a replica; the interleaved schedule"):
        load_case("gpt3_pp4", **HERE, overrides=six)
    one_virtual_stage = {"num-layers-per-virtual-pipeline-stage": "3"}
    assert load_case("gpt3_pp4", **HERE, overrides=six | one_virtual_stage).model_args
