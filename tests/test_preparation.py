"""What is read before a rank starts, as far as whole phases (test_train.py) do not try it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tasks.case import load_case
from tasks.exits import UsageError
from tasks.preparation import named_data


def test_the_data_set_of_the_flags_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_PATH", "/data")
    case = load_case("gpt3_pp4_resume_common_pile", platform_name="cpu_x86_64")
    assert named_data(case).is_relative_to(Path("/data/text/common_pile"))
    for named in (None, ["0.3", "a", "0.7", "b"], True):
        other = dataclasses.replace(case, model_args={**case.model_args, "--data-path": named})
        with pytest.raises(UsageError, match="is not the prefix of one data set"):
            named_data(other)
