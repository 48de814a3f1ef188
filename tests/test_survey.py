"""The survey: each case file gets one class, with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import survey
from tasks.util.exits import UsageError
from tests.megatron_lm_case import CASE

MACHINE = survey.Machine(platform="cpu_x86_64", device="cpu", world_size=8, memory_bytes=16 * 2**30)
OURS = CASE.replace("TEST_TYPE: frozen-start", "TEST_TYPE: regular").replace(
    "  --lr:", "  --bf16: true\n  --lr:"
)


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_PATH", raising=False)


def classify(tmp_path: Path, text: str, suite: str = "gpt") -> survey.Finding:
    path = tmp_path / "tests" / "functional_tests" / "test_cases" / suite / "one" / "model_config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return survey.classify(path, MACHINE)


@pytest.mark.parametrize(
    ("old", "new", "label", "reason"),
    [
        ("", "", "needs data", "DATA_PATH is not set (--vocab-file, --merge-file, --data-path)"),
        (
            "  --data-path: ${DATA_PATH}/my_text_document",
            "  --mock-data: true",
            "needs a checkout",
            "--mock-data",
        ),
        (
            "  --lr:",
            "  --group-query-attention: true\n  --lr:",
            "needs a checkout",
            "--group-query-attention",
        ),
        ("size: 4\n  --trans", "size: 16\n  --trans", "needs 16 GPUs", "16 ranks or GPUs"),
        ("--hidden-size: 512", "--hidden-size: 8192", "needs 4 GPUs", "GiB of model and optimizer"),
        ("  --lr:", "  --fp8-format: hybrid\n  --lr:", "needs 4 GPUs", "--fp8-format: only on GPUs"),
        ("TEST_TYPE:", "MODE: inference\nTEST_TYPE:", "not a training case", "MODE inference"),
        ("  --train-iters: 50\n", "", "not a training case", "it trains nothing"),
        ("MODEL_ARGS", "OTHER_ARGS", "not a training case", "MODEL_ARGS: is missing"),
        ("TEST_TYPE: regular", "TEST_TYPE: frozen-resume", "needs data", "begins with a checkpoint"),
    ],
)
def test_one_class_and_its_reason(tmp_path: Path, old: str, new: str, label: str, reason: str) -> None:
    finding = classify(tmp_path, OURS.replace(old, new, 1) if old else OURS)
    assert finding.label == label, finding
    assert reason in finding.reasons[0]


def test_a_case_whose_data_is_there_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    (tmp_path / "my_text_document.bin").touch()
    (tmp_path / "my_text_document.idx").touch()
    assert classify(tmp_path, OURS).label == "runs here"
    (tmp_path / "my_text_document.idx").unlink()
    finding = classify(tmp_path, OURS)
    assert finding.label == "needs data"
    assert f"{tmp_path}/my_text_document.idx is missing" in finding.reasons[0]


def test_cases_of_other_programs_need_them(tmp_path: Path) -> None:
    finding = classify(tmp_path, OURS, suite="t5")
    assert finding.kind == survey.CHECKOUT
    assert "pretrain_t5.py" in finding.reasons[0]


def test_every_file_is_counted_and_none_ends_the_survey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "this_machine", lambda: MACHINE)
    classify(tmp_path, OURS)
    classify(tmp_path, "- not a mapping\n", suite="moe")
    assert survey.main([str(tmp_path), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["counts"] == {"needs data": 1, "not a training case": 1}
    assert [case["case"] for case in reported["cases"]] == ["gpt/one", "moe/one"]
    assert survey.main([str(tmp_path)]) == 0
    assert "   2  case files on cpu_x86_64, 8 ranks" in capsys.readouterr().out


def test_a_folder_without_case_files_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model_config\.yaml below it"):
        survey.main([str(tmp_path)])
