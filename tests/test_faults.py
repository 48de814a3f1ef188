"""Planted faults: the runner, and five of them for real, each caught by the row where a person would look."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tasks import faults
from tasks.suite import jobs
from tasks.suite.steps import Step
from tasks.util.exits import MISMATCH, PASSED, CannotRun, TaskError, UsageError
from tests.fake_run import write_golden

IN_CI = {
    "clip_norm_of_one_stage": "golden: grad-norm",
    "grad_overlap_off": "golden: overlap-grad-buckets",
    "memory_leak": "golden: mem-growth-bytes",
    "resume_master_weights_from_bf16": "restart: state: master weights",
    "resume_samples_reset": "restart: state: consumed samples",
}
MAIN = "gpt3_pp4_resume"


def test_the_twenty_faults_are_there_and_say_what_they_break() -> None:
    known = faults.known_faults()
    assert len(known) >= 20
    assert sum(fault.resumes for fault in known) == 6
    assert len({fault.description for fault in known}) == len(known)
    assert all(len(fault.description) > 20 for fault in known)


def test_a_control_comes_before_each_kind() -> None:
    names = [fault.name for fault in faults.chosen_faults([], faults.known_faults())]
    assert names[0] == "control"
    assert names[names.index("control_resume") + 1].startswith("resume_")
    chosen = faults.chosen_faults(["memory_leak"], faults.known_faults())
    assert [fault.name for fault in chosen] == ["control", "memory_leak"]


def test_an_unknown_fault_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no such fault: memory_leek; known: .*memory_leak"):
        faults.chosen_faults(["memory_leek"], faults.known_faults())


def test_a_fault_without_effect_here_is_skipped_with_its_reason(capsys: pytest.CaptureFixture) -> None:
    known = faults.known_faults()
    assert faults.fitting(known, "cpu", 2) == known
    left = {fault.name for fault in known} - {fault.name for fault in faults.fitting(known, "cuda", 1)}
    assert left == {
        "attention_mask_off_by_one",
        "gradients_summed",
        "reduction_skipped_for_one_bucket",
        "slow_backward",
    }
    printed = capsys.readouterr().out.splitlines()
    assert "gradients_summed: skipped, since there is one data-parallel replica" in printed
    assert len(printed) == len(left)


def test_nothing_but_controls_left_is_no_pass() -> None:
    chosen = faults.chosen_faults(["slow_backward"], faults.known_faults())
    with pytest.raises(CannotRun, match="none of these faults would break anything on this machine"):
        faults.fitting(chosen, "cuda", 2)


def test_no_fault_is_known_to_the_harness() -> None:
    harness = [path for path in faults.REPOSITORY.glob("tasks/**/*.py") if path.name != "faults.py"]
    text = "".join(path.read_text() for path in harness)
    assert not [fault.name for fault in faults.known_faults() if fault.name in text]


def result(plugin: Path | None, caught_by: str) -> faults.Result:
    fault = faults.Fault(name="some", plugin=plugin, resumes=False)
    return faults.Result(fault=fault, caught_by=caught_by, other_rows=1, first_step=3, seconds=9.6)


def test_a_fault_must_be_caught_and_a_control_must_not() -> None:
    plugin = faults.FAULTS / "memory_leak.py"
    assert result(plugin, "golden: lm loss").as_wanted
    assert not result(plugin, "").as_wanted
    assert result(None, "").as_wanted
    assert not result(None, "golden: lm loss").as_wanted
    for fault, caught_by in ((None, ""), (plugin, "golden: lm loss")):
        ended = dataclasses.replace(result(fault, caught_by), error="rank 3 failed")
        assert not ended.as_wanted, "it came to no comparison"


def test_the_table_shows_what_went_wrong() -> None:
    plugin = faults.FAULTS / "memory_leak.py"
    table = faults.as_markdown([result(plugin, "golden: lm loss"), result(plugin, ""), result(None, "x")])
    lines = table.splitlines()[2:]
    assert "| golden: lm loss and 1 more | 3 | 10 |" in lines[0]
    assert "nothing" in lines[1]
    assert ["WRONG" in line for line in lines] == [False, True, True]


def steps_end(monkeypatch, codes: dict[str, int], output: str = "") -> list[Step]:
    """Steps exit with the code of their task (0) and this output instead of being run; returned are those."""
    ran: list[Step] = []

    def run_alone(job: jobs.Job) -> int:
        ran.extend(job.steps)
        job.codes.extend(codes.get(step.task, 0) for step in job.steps)
        job.run_dir.mkdir(parents=True, exist_ok=True)
        (job.run_dir / jobs.OUTPUT_FILE).write_text(f"{output}\n")
        return job.exit_code

    monkeypatch.setattr(jobs, "run_alone", run_alone)
    return ran


def test_an_end_by_an_error_is_no_fault_caught(monkeypatch, tmp_path) -> None:
    steps_end(monkeypatch, {"train": 4}, "error: no rank made progress for 60 s")
    fault = faults.known_faults()[0]
    tried = faults.tried_out(faults.Runner("gpt3_pp4_resume", tmp_path, tmp_path), fault)
    assert not tried.as_wanted
    assert tried.found == f"{fault.name}: no rank made progress for 60 s"


@pytest.mark.parametrize("name", ["memory_leak", "resume_samples_reset", "control"])
def test_the_task_that_the_fault_is_of_runs_with_its_plugin(monkeypatch, tmp_path, name) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    for file in ("case.json", "actual_phase1.json"):
        (reference / file).touch()
    (reference / "phase1.json").write_text('{"steps": [1, 60]}')
    ran = steps_end(monkeypatch, {"train": 4, "resume": 4})
    fault = next(one for one in faults.chosen_faults([], faults.known_faults()) if one.name == name)
    with pytest.raises(TaskError):
        faults.Runner("gpt3_pp4_resume", tmp_path, reference).try_out(fault)
    (step,) = ran
    assert step.task == ("resume" if fault.resumes else "train")
    plugin = ["--rank-plugin", str(fault.plugin)] if fault.plugin else []
    assert list(step.arguments[5:]) == plugin


@pytest.mark.parametrize("code", [2, 3, 5])
def test_a_comparison_that_fails_is_an_error_with_its_code(monkeypatch, tmp_path, code) -> None:
    steps_end(monkeypatch, {"diff": code}, "error: no card")
    monkeypatch.setattr(faults.Runner, "_card_serves", lambda self, run_dir: True)
    fault = faults.known_faults()[0]
    with pytest.raises(TaskError, match=f"{fault.name}: the comparison: no card") as failed:
        faults.Runner("gpt3_pp4_resume", tmp_path, tmp_path).try_out(fault)
    assert failed.value.exit_code == code


@pytest.mark.parametrize(("caught_by", "code"), [("golden: lm loss", PASSED), ("", MISMATCH)])
def test_exit_code_is_0_only_if_all_were_caught(monkeypatch, tmp_path, caught_by, code) -> None:
    def try_out(self, fault):
        caught = "" if fault.plugin is None else caught_by
        return faults.Result(fault=fault, caught_by=caught, other_rows=0, first_step=1, seconds=1.0)

    monkeypatch.setattr(faults.Runner, "try_out", try_out)
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    assert faults.main(["memory_leak", "--work-dir", str(work_dir)]) == code
    assert "1 MiB" in (work_dir / "faults.md").read_text()


def test_a_used_work_dir_is_refused(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="is not an empty folder"):
        faults.main(["memory_leak", "--work-dir", str(tmp_path)])


def test_a_reference_is_a_clean_run_of_the_case(tmp_path) -> None:
    """Otherwise the row for the missing reference would count as the one that caught the fault."""
    argv = ["memory_leak", "--work-dir", str(tmp_path / "work"), "--reference", str(tmp_path / "run")]
    with pytest.raises(UsageError, match="is no finished training, it has no case"):
        faults.main(argv)
    run = tmp_path / "run"
    for name in ("checkpoints", "data_cache"):
        (run / name).mkdir(parents=True)
    for name in ("phase1.json", "actual_phase1.json"):
        (run / name).write_text('{"rank_plugins": {"a.py": "1"}}')
    for case, message in (("gpt3_pp4", "is a run of gpt3_pp4, not of"), (MAIN, "trained with rank plugins")):
        (run / "case.json").write_text(f'{{"case_name": "{case}"}}')
        with pytest.raises(UsageError, match=message):
            faults.main(argv)


def test_a_comparison_without_rows_proves_nothing(monkeypatch, tmp_path) -> None:
    run_dir = tmp_path / "memory_leak"
    run_dir.mkdir()
    facts = {"environment": "lts", "platform": "cpu_x86_64", "fingerprint": {"cpu": "some"}}
    (run_dir / "case.json").write_text(json.dumps(facts))
    (run_dir / "report.json").write_text(json.dumps({"rows": [{"comparison": "resume", "passed": False}]}))
    steps_end(monkeypatch, {})
    runner = faults.Runner("gpt3_pp4_resume", tmp_path, tmp_path)
    with pytest.raises(TaskError, match="nothing was compared"):
        runner.try_out(faults.chosen_faults(["memory_leak"], faults.known_faults())[1])


@pytest.mark.parametrize(
    ("platform", "processor", "serves"),
    [
        ("cpu_x86_64", "AMD EPYC", True),
        ("cpu_x86_64", "Intel(R) Xeon(R) Processor", False),
        ("gpu4_h100", "AMD EPYC", False),
    ],
)
def test_a_card_serves_where_it_judges_times_too(monkeypatch, tmp_path, platform, processor, serves) -> None:
    write_golden(tmp_path)  # of an AMD EPYC
    monkeypatch.setattr(faults, "REPOSITORY", tmp_path)
    facts = {"environment": "lts", "platform": platform, "fingerprint": {"cpu": processor}}
    (tmp_path / "case.json").write_text(json.dumps(facts))
    runner = faults.Runner("gpt3_pp4_resume", tmp_path, tmp_path / "reference")
    assert runner._card_serves(tmp_path) is serves


def test_a_median_that_fails_too_is_not_the_first() -> None:
    rows = [
        {"comparison": comparison, "metric": metric, "first_step": step}
        for comparison, metric, step in (
            ("golden", "relative-backward-time", None),
            ("golden", "grad-norm", 4),
            ("golden", "lm loss", 5),
            ("restart", "state: rng", None),
        )
    ]
    found = [row["metric"] for row in sorted(rows, key=faults._step_of)]
    assert found == ["state: rng", "grad-norm", "lm loss", "relative-backward-time"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> faults.Runner:
    return faults.Runner("gpt3_pp4_resume", tmp_path_factory.mktemp("faults"), None)


@pytest.mark.training
@pytest.mark.parametrize("name", IN_CI)
def test_fault_is_caught_where_a_person_would_look(runner: faults.Runner, name: str) -> None:
    fault = next(fault for fault in faults.known_faults() if fault.name == name)
    assert runner.try_out(fault).caught_by == IN_CI[name]


@pytest.mark.training
@pytest.mark.parametrize("name", ["control", "control_resume"])
def test_nothing_is_found_without_a_fault(runner: faults.Runner, name: str) -> None:
    fault = faults.Fault(name=name, plugin=None, resumes=name.endswith("resume"))
    assert runner.try_out(fault).caught_by == ""
