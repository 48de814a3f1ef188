"""What is read before a rank starts, as far as whole phases (test_train.py) do not try it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tasks import platforms
from tasks.case import load_case
from tasks.exits import UsageError
from tasks.preparation import named_data, understood
from tasks.subject import OURS


def test_the_data_set_of_the_flags_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_PATH", "/data")
    case = load_case("gpt3_pp4_resume_common_pile", platform_name="cpu_x86_64")
    assert named_data(case).is_relative_to(Path("/data/text/common_pile"))
    for named in (None, ["0.3", "a", "0.7", "b"], True):
        other = dataclasses.replace(case, model_args={**case.model_args, "--data-path": named})
        with pytest.raises(UsageError, match="is not the prefix of one data set"):
            named_data(other)


def test_what_our_program_does_not_understand_is_told_with_its_file() -> None:
    case = load_case("gpt3_pp4", platform_name="cpu_x86_64", overrides={"bf16": "no"})
    with pytest.raises(UsageError, match=r"gpt3_pp4/model_config.yaml: Megatron flags: --bf16: 'no' is more"):
        understood(case, platforms.detect(), OURS)
