"""Reading a run directory: one line for each way in which it is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.records.run import read_run
from tasks.util.exits import UsageError
from tests.fake_run import CASE, METRICS, write_json, write_run


def test_a_whole_run(tmp_path):
    run = read_run(write_run(tmp_path / "run"), case_name=CASE)
    assert (run.case_name, run.environment, run.platform, run.run_id) == (CASE, "lts", "cpu_x86_64", "run")
    assert run.metrics == tuple(METRICS)
    assert run.resumes
    assert run.deterministic
    assert run.actual2.metrics["lm loss"].start_step == 51


def test_phase_2_is_looked_at_wherever_there_is_one(tmp_path):
    run = write_run(tmp_path / "run", test_type="regular")
    assert not read_run(run).resumes
    write_json(run / "phase2.json", {"phase": 2})
    assert read_run(run).resumes


def test_what_was_saved_and_what_was_restarted_are_of_the_right_phases(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.saved == (run.record1, run.actual1)
    assert run.restarted == (run.record2, run.actual2)
    kept = read_run(write_run(tmp_path / "kept", test_type="frozen-resume"))
    assert kept.restarted == (kept.record1, kept.actual1)
    assert kept.saved == (None, None), "it brought nothing along"


def test_cards_of_another_training_program_are_kept_apart(tmp_path):
    run = write_run(tmp_path / "run")
    change(run, golden_case="original")
    assert read_run(run).card_name == "original"
    change(run, subject="megatron-core-0.19.2")
    assert read_run(run).card_name == "original@megatron-core-0.19.2"


@pytest.mark.parametrize(
    ("model_args", "deterministic"),
    [
        ({"--deterministic-mode": True}, True),
        ({"--deterministic-mode": False}, False),
        ({"--seed": 1}, False),
        ({}, False),
    ],
)
def test_a_run_is_excused_from_equality_only_by_its_flags(tmp_path, model_args, deterministic):
    assert read_run(write_run(tmp_path / "run", model_args=model_args)).deterministic is deterministic


def change(run: Path, **changes: object) -> None:
    write_json(run / "case.json", {**json.loads((run / "case.json").read_text()), **changes})


def change_case(run: Path, **changes: object) -> None:
    change(run, case={**json.loads((run / "case.json").read_text())["case"], **changes})


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "case.json").unlink(), "no case.json"),
        (lambda run: (run / "actual_phase1.json").unlink(), "training did not finish"),
        (lambda run: (run / "case.json").write_text("{"), "not JSON"),
        (lambda run: (run / "phase1.json").write_bytes(b"\xff"), "not UTF-8"),
        (lambda run: (run / "actual_phase2.json").write_text("[]"), "actual_phase2.json"),
        (lambda run: write_json(run / "case.json", {"case_name": CASE}), "metrics"),
        (lambda run: change(run, platform="gpu1_h100"), "platform is 'gpu1_h100' and 'cpu_x86_64'"),
        (lambda run: change(run, environment="dev"), "environment is 'dev' and 'lts'"),
        (lambda run: change(run, fingerprint={}), "platform is 'cpu_x86_64' and None"),
        (lambda run: change(run, test_type="ckpt-resumé"), "test_type must be one of regular, ckpt-resume"),
        (lambda run: change(run, case=None), "its case has no --train-iters"),
        (lambda run: change_case(run, test_type="regular"), "test_type is 'ckpt-resume' and 'regular'"),
        (lambda run: change_case(run, digest="f" * 64), "has not the digest of its fingerprint"),
        (lambda run: change_case(run, model_args={}), "its case has no --train-iters"),
        (lambda run: shutil.copy(run / "phase1.json", run / "phase2.json"), "the record of phase 1"),
    ],
)
def test_bad_run_directory_is_one_line(tmp_path, break_it, message):
    run = write_run(tmp_path / "run")
    break_it(run)
    with pytest.raises(UsageError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)


def test_run_of_another_case_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not of other"):
        read_run(write_run(tmp_path / "run"), case_name="other")


def test_no_run_directory(tmp_path):
    with pytest.raises(UsageError, match="no such run directory"):
        read_run(tmp_path / "none")
