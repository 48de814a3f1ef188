"""Case files of Megatron-LM, read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import train
from tasks.cases import megatron_lm_case
from tasks.cases.loader import load_upstream_case
from tasks.util.exits import UsageError
from tests.megatron_lm_case import CASE


@pytest.fixture
def case_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpt" / "theirs" / "model_config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(CASE)
    return path


def test_ignored_entries_of_a_file_are_remarked_on(case_file: Path) -> None:
    upstream = megatron_lm_case.read(case_file)
    assert upstream.test_type == "frozen-start"
    assert upstream.content["TEST_TYPE"] == "regular"
    assert upstream.content["METRICS"] == ["lm loss"]
    assert upstream.content["ENV_VARS"] == {"NVTE_FUSED_ATTN": "0", "SWITCHED": "true"}
    metric = "METRICS: 'never heard of' is not measured here"
    assert upstream.remarks == ("AFTER_SCRIPT: not done here", metric)


def test_the_last_value_of_a_repeated_key_holds_as_there(case_file: Path) -> None:
    case_file.write_text("MODEL_ARGS:\n  --seed: 1\n  --seed: 2\n")
    upstream = megatron_lm_case.read(case_file)
    assert upstream.content["MODEL_ARGS"] == {"--seed": 2}
    assert "--seed stands here and on line 2" in upstream.remarks[0]
    case_file.write_text("MODEL_ARGS: [unclosed")
    with pytest.raises(UsageError, match="line"):
        megatron_lm_case.read(case_file)


def test_flags_are_translated_for_our_program_only(case_file: Path) -> None:
    theirs = load_upstream_case(case_file, platform_name="dgx_h100", ours=False)
    assert theirs.model_args["--vocab-file"] == "${DATA_PATH}/vocab.json"
    assert theirs.model_args["--transformer-impl"] == "transformer_engine"
    ours = load_upstream_case(case_file.parent, platform_name="dgx_h100")
    assert "--vocab-file" not in ours.model_args
    assert ours.model_args["--vocab-size"] == 50256
    assert ours.model_args["--dist-ckpt-strictness"] == "raise_all"


def test_a_cpu_gets_the_flags_that_it_needs(case_file: Path) -> None:
    case = load_upstream_case(case_file, platform_name="cpu_x86_64", ours=False)
    assert case.model_args["--distributed-backend"] == "gloo"
    assert case.model_args["--transformer-impl"] == "local"


def test_our_rules_hold_for_our_program_alone(case_file: Path) -> None:
    case_file.write_text(CASE.replace("--global-batch-size: 32", "--global-batch-size: 33"))
    load_upstream_case(case_file, platform_name="dgx_h100", ours=False)
    with pytest.raises(UsageError, match="--global-batch-size: 33 is not divisible"):
        load_upstream_case(case_file, platform_name="dgx_h100")


@pytest.mark.parametrize("test_type", ["regular", "ckpt-resume", "release", "", "~"])
def test_types_that_are_run(case_file: Path, test_type: str) -> None:
    case_file.write_text(CASE.replace("TEST_TYPE: frozen-start", f"TEST_TYPE: {test_type}"))
    upstream = megatron_lm_case.read(case_file)
    megatron_lm_case.refuse_other_types(upstream)
    assert upstream.test_type == (test_type.strip("~") or "regular")


@pytest.mark.parametrize(
    ("test_type", "message"),
    [
        ("frozen-start", "begins with a checkpoint that only NVIDIA's"),
        ("ckpt_resume", "'ckpt_resume' is not run here. Did you mean ckpt-resume?"),
    ],
)
def test_a_type_that_would_be_trained_as_another_is_refused(
    case_file: Path, monkeypatch: pytest.MonkeyPatch, test_type: str, message: str
) -> None:
    """A misspelt ckpt-resume would run without its restart."""
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    case_file.write_text(CASE.replace("frozen-start", test_type))
    argv = ["--case-file", str(case_file), "--run-dir", str(case_file.parent / "run")]
    with pytest.raises(UsageError, match=message):
        train.main(argv)


def test_metrics_are_a_list(case_file: Path) -> None:
    case_file.write_text(CASE.replace("[lm loss, never heard of]", "lm loss"))
    with pytest.raises(UsageError, match="METRICS: must be a list of names"):
        megatron_lm_case.read(case_file)
