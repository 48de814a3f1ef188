"""Recording a card: only from runs that agree and resumed, never over a card without --yes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tasks.cases.loader import load_case
from tasks.judge.run import judge_run
from tasks.record import changes, main
from tasks.records.card import metric_from
from tasks.records.card_lint import problems
from tasks.records.card_store import provenance_path, read_card, read_provenance, write_card
from tasks.util.exits import TaskError, UsageError
from tasks.util.files import REPOSITORY, file_sha256
from tests.fake_run import CASE, FINGERPRINT, METRICS, card, state, write_golden, write_json, write_run
from tests.recording import path_in, record
from tests.stub_checkout import add_case


def noisy(factor):
    return card(change=lambda name, step, number: number * factor if name == "iteration-time" else number)


def test_recorded_card_passes_its_own_run_and_the_linter(tmp_path):
    runs = [write_run(tmp_path / f"run{factor}", phase1=noisy(factor)) for factor in (1.0, 3.0, 1.1)]
    assert record(tmp_path, *runs) == 0
    assert judge_run(runs[0], root=tmp_path).passed
    add_case(tmp_path, CASE)
    assert problems(tmp_path) == []
    recorded = read_card(path_in(tmp_path)).metrics
    assert recorded["lm loss"].values.tolist() == card().metrics["lm loss"].values.tolist()
    expected = card().metrics["iteration-time"].values * 1.1
    assert recorded["iteration-time"].values == pytest.approx(expected), "the median of the runs"


def test_provenance_is_complete(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    record(tmp_path, *runs, reason="  new   torch ")
    provenance = read_provenance(path_in(tmp_path))
    assert provenance["reason"] == "new torch"
    assert provenance["equal_runs"] == 3
    assert provenance["fingerprint"] == FINGERPRINT
    assert provenance["commit"] == "c" * 40
    assert provenance["seeds"] == [1234]
    assert provenance["recorded"].endswith("+00:00")
    assert provenance["card_sha256"] == file_sha256(path_in(tmp_path))


@pytest.mark.parametrize(("name", "factor"), [("mem-allocated-bytes", 5.0), ("mem-allocated-bytes", 0.2)])
def test_runs_whose_memory_differs_become_no_card(tmp_path, name, factor):
    def changed(metric, step, number):
        return number * factor if metric == name else number

    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", phase1=card(change=changed))]
    write_card(runs[1] / "actual_phase2.json", card(51, change=changed))
    with pytest.raises(UsageError, match=f"b: '{name}' is not that of .*: record runs that agree"):
        record(tmp_path, *runs)
    assert not path_in(tmp_path).exists()


def test_one_run_that_is_not_deterministic_excuses_no_difference(tmp_path):
    other = card(change=lambda name, step, number: number * 1.001 if name == "lm loss" else number)
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", phase1=other, phase2=other.between(51, 100), model_args={"--seed": 1234}),
    ]
    with pytest.raises(UsageError, match="'lm loss' differs from"):
        record(tmp_path, *runs)


@pytest.mark.parametrize("before", [True, False])
def test_a_card_whose_side_file_cannot_be_written_is_not_left_alone(tmp_path, before):
    if before:
        write_golden(tmp_path, card(metrics=METRICS[:2]))
    old = path_in(tmp_path).read_bytes() if before else None
    provenance_path(path_in(tmp_path)).unlink(missing_ok=True)
    provenance_path(path_in(tmp_path)).mkdir(parents=True)
    with pytest.raises(
        UsageError, match=r"cannot be written .*; golden_values_lts_cpu_x86_64.json is as it was"
    ):
        record(tmp_path, write_run(tmp_path / "run"), yes=True)
    assert (path_in(tmp_path).read_bytes() if before else not path_in(tmp_path).exists()) == (old or True)


@pytest.mark.parametrize(("commit", "noted"), [("c" * 40, 0), ("c" * 40 + "-dirty", 1), ("unknown", 1)])
def test_code_that_nobody_can_check_out_is_noted(tmp_path, capsys, commit, noted):
    record(tmp_path, write_run(tmp_path / "run", fingerprint={**FINGERPRINT, "commit": commit}))
    assert capsys.readouterr().out.count("Nobody can check out the code of this card") == noted


def test_a_copy_of_a_run_is_no_second_run(tmp_path):
    run = write_run(tmp_path / "a")
    shutil.copytree(run, tmp_path / "b")
    with pytest.raises(UsageError, match="the same run is given twice"):
        record(tmp_path, run, tmp_path / "b")


@pytest.mark.parametrize(("total", "written"), [(47.25, False), (47.5, True)])
def test_a_copy_under_another_name_took_the_same_seconds(tmp_path, total, written):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    for run, seconds in zip(runs, (47.25, total), strict=True):
        path = run / "phase1.json"
        write_json(path, {**json.loads(path.read_text()), "seconds": {"load": 0.0, "total": seconds}})
    if written:
        assert record(tmp_path, *runs) == 0
    else:
        with pytest.raises(UsageError, match="the same run is given twice"):
            record(tmp_path, *runs)


@pytest.mark.parametrize("what", ["nothing", "flag", "metrics", "type", "data"])
def test_a_run_of_another_configuration_than_the_cases_becomes_no_card(tmp_path, what):
    shutil.copytree(REPOSITORY / "test_cases" / CASE, tmp_path / "test_cases" / CASE)
    changed = {"lr": "0.5"} if what == "flag" else {}
    case = load_case(CASE, platform_name="cpu_x86_64", root=tmp_path, overrides=changed)
    measured = METRICS[:1] if what == "metrics" else list(case.metrics)
    logged = card(metrics=METRICS)
    for name in set(measured) - {*METRICS}:
        logged.metrics[name] = metric_from(range(1, 101), [1.0] * 100)
    corpus = "e" * 64 if what == "data" else case.corpus.sha256
    fingerprint = {**FINGERPRINT, "case": case.digest, "corpus": corpus}
    run = write_run(
        tmp_path / "run",
        phase1=logged,
        phase2=logged.between(51, 100),
        metrics=measured,
        fingerprint=fingerprint,
        test_type="regular" if what == "type" else case.test_type,
    )
    if what == "nothing":
        assert record(tmp_path, run) == 0
    else:
        why = "other data than CORPUS of" if what == "data" else "another configuration than .* has now"
        with pytest.raises(UsageError, match=rf"{why}.*: train it again"):
            record(tmp_path, run)
        assert not path_in(tmp_path).exists()


def test_a_run_of_a_file_of_megatron_lms_is_not_compared_with_a_case_of_the_same_name(tmp_path):
    shutil.copytree(REPOSITORY / "test_cases" / CASE, tmp_path / "test_cases" / CASE)
    run = write_run(tmp_path / "run")
    with pytest.raises(UsageError, match="another configuration"):
        record(tmp_path, run)
    content = json.loads((run / "case.json").read_text())
    write_json(run / "case.json", {**content, "goldens": str(tmp_path / "theirs")})
    assert record(tmp_path, run) == 0


@pytest.mark.parametrize("name", ["iteration-time", "mem-allocated-bytes", "mem-growth-bytes"])
def test_what_was_not_measured_becomes_no_card(tmp_path, name):
    logged = card()
    logged.metrics[name] = metric_from(range(1, 101), [0.0] * 100)
    run = write_run(tmp_path / "run", phase1=logged, test_type="regular")
    with pytest.raises(UsageError, match=f"'{name}': is 0 where nothing was measured"):
        record(tmp_path, run)


def test_a_metric_that_the_restart_lacks_is_refused_though_it_is_only_shown(tmp_path):
    lacking = card(51, 100, metrics=[name for name in METRICS if name != "iteration-time"])
    with pytest.raises(UsageError, match="resume: iteration-time: missing"):
        record(tmp_path, write_run(tmp_path / "run", phase2=lacking))


def test_a_run_with_a_rank_plugin_becomes_no_card(tmp_path):
    run = write_run(tmp_path / "a")
    path = run / "phase2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_plugins": {"/my/plugin.py": "a" * 64}}))
    with pytest.raises(UsageError, match=r"trained with a rank plugin \(/my/plugin.py\)"):
        record(tmp_path, run)
    write_golden(tmp_path)
    assert "trained with rank plugins: plugin.py" in judge_run(run, root=tmp_path).notes


@pytest.mark.parametrize("metric", ["lm loss", "num-zeros", "grad-norm"])
def test_runs_that_differ_by_a_bit_are_refused(tmp_path, metric):
    def last_bit(name, step, number):
        changed = float(np.nextafter(np.float32(number), np.float32(9)))
        return changed if (name, step) == (metric, 77) else number

    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", phase1=card(change=last_bit), phase2=card(51, change=last_bit)),
    ]
    with pytest.raises(UsageError, match=rf"{metric}' differs .* at step 77 .*not deterministic"):
        record(tmp_path, *runs)
    assert not path_in(tmp_path).exists()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"phase2": card(51, change=lambda name, step, number: number + (step == 60))},
            "resume: lm loss at step 60",
        ),
        ({"record2": {"state": {"50": state(rng="f" * 64)}}}, "restart: state: rng"),
        ({"record2": {"loaded_iteration": None}}, "resumed nothing"),
        (
            {"phase1": card(change=lambda _, step, number: None if step == 9 else number)},
            "no value for step 9",
        ),
        (
            {"phase1": card(change=lambda _, step, number: float("nan") if step == 9 else number)},
            "step 9 is no finite number",
        ),
        ({"metrics": [*METRICS, "mtp_1 loss"], "test_type": "regular"}, "'mtp_1 loss' is not among"),
        (
            {"phase1": card(1, 20), "test_type": "regular", "model_args": {"--train-iters": 100}},
            "ends at step 20, the case trains 100",
        ),
    ],
)
def test_unfit_run_is_refused(tmp_path, run, message):
    with pytest.raises(UsageError, match=message) as caught:
        record(tmp_path, write_run(tmp_path / "run", **run))
    assert "\n" not in str(caught.value)
    assert not path_in(tmp_path).exists()


def test_without_runs_it_makes_three_of_its_own(tmp_path, monkeypatch):
    commands = []

    def run_alone(job):
        commands.extend(step.argv[:3] for step in job.steps)
        assert all(step.argv[-1] == str(job.run_dir) for step in job.steps)
        assert job.run_dir.is_relative_to(tmp_path / "runs" / CASE)
        write_run(job.run_dir)
        return 0

    monkeypatch.setattr("tasks.record.REPOSITORY", tmp_path)
    monkeypatch.setattr("tasks.suite.jobs.run_alone", run_alone)
    assert record(tmp_path) == 0
    assert commands == [["-m", "tasks.train", CASE], ["-m", "tasks.resume", CASE]] * 3
    assert read_provenance(path_in(tmp_path))["equal_runs"] == 3


@pytest.mark.parametrize(("codes", "task"), [([3], "train"), ([0, 4], "resume"), ([5], "train")])
def test_a_phase_that_fails_ends_the_recording_with_its_code(tmp_path, monkeypatch, codes, task):
    def run_alone(job):
        job.codes.extend(codes)
        return job.exit_code

    monkeypatch.setattr("tasks.record.REPOSITORY", tmp_path)
    monkeypatch.setattr("tasks.suite.jobs.run_alone", run_alone)
    with pytest.raises(
        TaskError, match=f"tasks.{task} ended with exit code {codes[-1]}; no card was written"
    ) as caught:
        record(tmp_path)
    assert caught.value.exit_code == codes[-1]
    assert not path_in(tmp_path).exists()


def test_phase_2_missing_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "phase2.json").unlink()
    with pytest.raises(UsageError, match=r"no phase2\.json"):
        record(tmp_path, run)


def test_runs_of_other_kinds_are_refused(tmp_path):
    other = {**FINGERPRINT, "torch": "2.12.0"}
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", fingerprint=other)]
    with pytest.raises(UsageError, match="fingerprint is not that of"):
        record(tmp_path, *runs)
    other_type = write_run(tmp_path / "c", test_type="regular")
    with pytest.raises(UsageError, match="test_type is not that of"):
        record(tmp_path, runs[0], other_type)
    with pytest.raises(UsageError, match="same run is given twice"):
        record(tmp_path, runs[0], runs[0])
    with pytest.raises(UsageError, match="--reason is empty"):
        record(tmp_path, runs[0], reason="  ")


def test_runs_that_logged_other_metrics_or_other_steps_are_refused(tmp_path):
    def run(name, logged):
        return write_run(tmp_path / name, phase1=logged, test_type="regular", metrics=METRICS[:1])

    beginning_late = card(change=lambda *of: None if of[:2] == ("num-zeros", 1) else of[2])
    whole, fewer, later = run("a", card()), run("b", card(metrics=METRICS[:-1])), run("c", beginning_late)
    for runs in ((whole, fewer), (fewer, whole)):
        with pytest.raises(UsageError, match=r"/\w: other metrics than "):
            record(tmp_path, *runs)
    with pytest.raises(UsageError, match="c: 'num-zeros': other steps than "):
        record(tmp_path, whole, later)


def test_existing_card_is_kept_without_yes_and_the_change_is_shown(tmp_path, capsys):
    other = card(change=lambda name, step, number: number * 1.01 if name == "lm loss" else number)
    path = write_golden(tmp_path, other)
    before = path.read_bytes(), provenance_path(path).read_bytes()
    run = write_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"exists and was not touched; .* --yes"):
        record(tmp_path, run)
    assert (path.read_bytes(), provenance_path(path).read_bytes()) == before
    printed = capsys.readouterr().out
    assert "Golden card changes" in printed
    assert "Reason: because" in printed
    line = next(line for line in printed.splitlines() if line.startswith("| lm loss"))
    assert line.split("|")[2].strip() == "0 of 100"
    assert line.split("|")[4].strip() == "0.99 %"
    assert "| num-zeros" in printed
    assert record(tmp_path, run, yes=True) == 0
    assert judge_run(run, root=tmp_path).passed


def test_old_to_new_differences():
    old = card(change=lambda name, step, number: number / 2 if (name, step) == ("lm loss", 40) else number)
    (change,) = [change for change in changes(old, card()) if change.metric == "lm loss"]
    assert (change.steps, change.equal, change.largest, change.mean, change.step) == (100, 99, 1.0, 0.01, 40)
    fewer = changes(card(), card(metrics=["lm loss"]))
    (gone,) = [change for change in fewer if change.metric == "num-zeros"]
    assert gone.mean is None


def test_a_card_that_cannot_be_read_is_not_written_over(tmp_path):
    write_golden(tmp_path)
    path_in(tmp_path).write_text("{")
    with pytest.raises(UsageError, match="check the card out again, or remove it and record again"):
        record(tmp_path, write_run(tmp_path / "run"), yes=True)
    assert path_in(tmp_path).read_text() == "{"


def test_stale_siblings_are_named(tmp_path, capsys):
    write_golden(tmp_path, platform="dgx_a100", fingerprint={**FINGERPRINT, "commit": "d" * 40})
    write_golden(tmp_path, platform="dgx_h100", fingerprint=None)
    write_golden(tmp_path, platform="cpu_aarch64")
    record(tmp_path, write_run(tmp_path / "run"))
    stale = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Now stale")]
    assert len(stale) == 2
    assert "golden_values_lts_dgx_a100.json" in stale[0]
    assert "dddddddddddd" in stale[0]
    assert "golden_values_lts_dgx_h100.json (origin unknown)" in stale[1]


def test_written_card_is_json_that_others_read(tmp_path):
    record(tmp_path, write_run(tmp_path / "run"))
    content = json.loads(path_in(tmp_path).read_text())
    assert list(content) == METRICS
    assert all(entry["value_precision"] == "full" for entry in content.values())


def test_a_case_compared_with_anothers_card_is_refused_before_it_is_trained():
    with pytest.raises(
        UsageError, match=r"compared with the golden cards of gpt3_pp4_resume .* record that one"
    ):
        main(["gpt3_pp4_crash_resume", "--reason", "why"])


def test_runs_of_such_a_case_are_refused_too(tmp_path):
    run = write_run(tmp_path / "run")
    case = json.loads((run / "case.json").read_text())
    (run / "case.json").write_text(json.dumps({**case, "golden_case": "another"}))
    with pytest.raises(UsageError, match="compared with the golden cards of another"):
        main([CASE, "--reason", "why", "--from-run", str(run)])


def test_without_a_case_every_case_with_cards_of_its_own_is_recorded(tmp_path, monkeypatch):
    recorded = []
    monkeypatch.setattr("tasks.record._record", lambda case, reason, arguments: recorded.append(case))
    monkeypatch.delenv("DATA_PATH", raising=False)
    assert main(["--reason", "why"]) == 0
    assert "gpt3_pp4" in recorded
    assert "gpt3_pp4_crash_resume" not in recorded, "it is compared with another case's card"
    assert "gpt3_pp4_resume_common_pile" not in recorded, "its data are not here"
    with pytest.raises(UsageError, match="--from-run: say of which case"):
        main(["--reason", "why", "--from-run", str(tmp_path)])
