"""The rules of flags that are not tried through whole cases in test_case.py."""

from __future__ import annotations

import pytest

from tasks.case import load_case
from tasks.exits import UsageError

HERE = {"platform_name": "cpu_x86_64"}


def test_data_that_would_not_be_read_are_refused() -> None:
    """With CORPUS the prefix of its dataset was put in the flag's place, whatever stood there."""
    with pytest.raises(UsageError, match=r"'/my/own' would not be read.* give --data-path PREFIX"):
        load_case("gpt3_pp4", **HERE, overrides={"data-path": "/my/own"})
    assert load_case("gpt3_pp4", **HERE, overrides={"data-path": "${CORPUS_PREFIX}"}).corpus
    assert load_case("gpt3_pp4_resume_common_pile", **HERE).corpus is None
