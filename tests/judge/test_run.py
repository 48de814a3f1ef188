"""A finished run against its card: what passes, and all that must not."""

from __future__ import annotations

import pytest

from tasks.judge.run import MEGATRON, Options, judge_run
from tasks.util.files import read_json_object
from tests.fake_run import CASE, FINGERPRINT, METRICS, SAVED, card, state, write_golden, write_json, write_run
from tests.rows import row_of, rows_of


def one_ulp(metric, step, *, at):
    import numpy as np

    return lambda name, now, number: (
        float(np.nextafter(np.float32(number), np.float32(np.inf)))
        if (name, now) == (metric, step) and at
        else number
    )


def judged(tmp_path, *, golden=None, golden_fingerprint=FINGERPRINT, options=None, **run):
    root = tmp_path / "root"
    write_golden(root, golden, fingerprint=golden_fingerprint, platform=run.get("platform", "cpu_x86_64"))
    return judge_run(write_run(tmp_path / "run", **run), root=root, options=options)


def test_equal_run_passes_with_every_deterministic_row_exact(tmp_path):
    verdict = judged(tmp_path)
    assert verdict.passed
    assert verdict.exit_code == 0
    for comparison in ("golden", "resume"):
        for metric in ("lm loss", "num-zeros", "grad-norm"):
            row = row_of(verdict, comparison, metric)
            assert (row.check, row.verdict, row.tolerance, row.ulp) == ("exact", "exact", 0.0, 0)
    assert row_of(verdict, "golden", "lm loss").steps == "1-100"
    assert row_of(verdict, "resume", "lm loss").steps == "51-100"
    assert row_of(verdict, "golden", "iteration-time").verdict == "not judged"


def test_last_bit_of_one_loss_in_the_card_fails_and_names_the_step(tmp_path):
    verdict = judged(tmp_path, golden=card(change=one_ulp("lm loss", 37, at=True)))
    row = row_of(verdict, "golden", "lm loss")
    assert (row.verdict, row.first_step, row.worst_step, row.ulp) == ("regression", 37, 37, 1)
    assert verdict.exit_code == 1
    assert [row.metric for row in verdict.rows if not row.passed] == ["lm loss"]


@pytest.mark.parametrize("metric", ["lm loss", "num-zeros", "grad-norm"])
def test_last_bit_after_the_restart_fails_the_resume_comparison_only(tmp_path, metric):
    verdict = judged(tmp_path, phase2=card(51, 100, change=one_ulp(metric, 52, at=True)))
    row = row_of(verdict, "resume", metric)
    assert (row.verdict, row.first_step) == ("regression", 52)
    assert verdict.exit_code == 1
    assert row_of(verdict, "golden", metric).passed


@pytest.mark.parametrize("file", ["phase2.json", "actual_phase2.json"])
def test_missing_phase_2_fails_closed(tmp_path, file):
    write_golden(tmp_path)
    run = write_run(tmp_path / "run")
    (run / file).unlink()
    verdict = judge_run(run, root=tmp_path)
    assert not verdict.passed
    assert verdict.exit_code == 1
    assert file in row_of(verdict, "resume", "all metrics").note


@pytest.mark.parametrize("policy", ["strict", MEGATRON])
def test_training_again_from_scratch_is_no_resume(tmp_path, policy):
    again = {"loaded_iteration": None, "steps": [1, 100], "state": {}}
    verdict = judged(tmp_path, phase2=card(), record2=again, options=Options(policy=policy))
    assert verdict.exit_code == 1


def test_phase_2_that_logs_earlier_steps_fails_though_its_values_are_equal(tmp_path):
    verdict = judged(tmp_path, phase2=card(41, 100))
    row = row_of(verdict, "resume", "lm loss")
    assert (row.verdict, row.first_step) == ("missing", 41)


def test_restart_rows_are_part_of_the_verdict(tmp_path):
    verdict = judged(tmp_path, record2={"state": {str(SAVED): state(rng="f" * 64)}})
    row = row_of(verdict, "restart", "state: rng")
    assert (row.verdict, row.passed) == ("regression", False)
    assert "rank 3" in row.note
    assert verdict.exit_code == 1


def test_missing_metric_of_the_case_fails(tmp_path):
    verdict = judged(tmp_path, phase1=card(metrics=[name for name in METRICS if name != "num-zeros"]))
    assert row_of(verdict, "golden", "num-zeros").verdict == "missing"
    assert verdict.exit_code == 1


def test_metric_the_card_lacks_fails_when_the_case_asks_for_it_and_is_named_otherwise(tmp_path):
    golden = card(metrics=[name for name in METRICS if name != "grad-norm"])
    verdict = judged(tmp_path, golden=golden)
    assert row_of(verdict, "golden", "grad-norm").verdict == "missing"
    other = judged(tmp_path / "2", golden=golden, metrics=["lm loss"])
    assert other.passed
    assert any("grad-norm" in note for note in other.notes)


def test_run_that_ended_early_is_missing_not_passed(tmp_path):
    verdict = judged(tmp_path, phase1=card(1, 70), phase2=card(51, 70), test_type="regular")
    row = row_of(verdict, "golden", "lm loss")
    assert (row.verdict, row.first_step) == ("missing", 71)
    assert verdict.exit_code == 1


def test_extra_step_fails(tmp_path):
    verdict = judged(tmp_path, golden=card(1, 99))
    row = row_of(verdict, "golden", "lm loss")
    assert (row.verdict, row.first_step) == ("missing", 100)


def test_steps_restrict_what_is_compared_and_the_report_says_so(tmp_path):
    changed = card(1, 20, change=one_ulp("lm loss", 30, at=True))
    verdict = judged(tmp_path, phase1=changed, test_type="regular", options=Options(steps=(1, 20)))
    assert verdict.passed
    assert row_of(verdict, "golden", "lm loss").steps == "1-20"
    from tasks.reports.formats import as_text

    assert "steps 1-20 only" in as_text(verdict)


def test_phase_2_must_have_run_where_phase_1_did(tmp_path):
    record2 = {"fingerprint": {**FINGERPRINT, "torch": "2.0.0"}}
    verdict = judged(tmp_path, record2=record2)
    assert (row_of(verdict, "restart", "same environment").note, verdict.exit_code) == (
        "torch 2.13.0 → 2.0.0",
        1,
    )


def test_nan_loss_is_named_with_its_step(tmp_path):
    nan = card(change=lambda name, step, number: float("nan") if (name, step) == ("lm loss", 37) else number)
    verdict = judged(tmp_path, phase1=nan)
    row = row_of(verdict, "golden", "lm loss")
    assert row.verdict == "regression"
    assert "step 37 is nan" in row.note


def test_nan_in_the_card_matches_nothing_not_even_nan(tmp_path):
    nan = card(change=lambda name, step, number: float("nan") if (name, step) == ("lm loss", 37) else number)
    verdict = judged(tmp_path, golden=nan, phase1=nan)
    assert row_of(verdict, "golden", "lm loss").verdict == "regression"


def test_without_a_card_the_resume_is_still_judged_and_the_error_says_how_to_record(tmp_path):
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    assert verdict.exit_code == 2
    assert row_of(verdict, "resume", "lm loss").verdict == "exact"
    assert f'nox -s record -- {CASE} --reason "..."' in verdict.error
    assert not verdict.passed


def test_without_a_card_a_wrong_resume_is_a_mismatch(tmp_path):
    run = write_run(tmp_path / "run", phase2=card(51, 100, change=one_ulp("lm loss", 51, at=True)))
    assert judge_run(run, root=tmp_path).exit_code == 1


def test_malformed_card_keeps_the_resume_comparison(tmp_path):
    path = write_golden(tmp_path)
    path.write_text("{")
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    assert verdict.exit_code == 2
    assert path.name in verdict.error
    assert row_of(verdict, "resume", "lm loss").passed


def test_another_processor_or_commit_does_not_excuse_a_difference(tmp_path):
    other = {**FINGERPRINT, "cpu": "Intel Xeon", "commit": "d" * 40}
    verdict = judged(tmp_path, golden=card(change=one_ulp("lm loss", 9, at=True)), golden_fingerprint=other)
    assert row_of(verdict, "golden", "lm loss").check == "exact"
    assert verdict.exit_code == 1


def test_another_torch_inside_tolerance_is_drift(tmp_path):
    other = {**FINGERPRINT, "torch": "2.12.0"}
    verdict = judged(tmp_path, golden=card(change=one_ulp("lm loss", 9, at=True)), golden_fingerprint=other)
    row = row_of(verdict, "golden", "lm loss")
    assert (row.check, row.verdict, row.passed) == ("approximate", "drift", True)
    assert "torch 2.12.0 → 2.13.0" in row.note
    assert verdict.exit_code == 0


def test_another_torch_does_not_loosen_the_resume_comparison(tmp_path):
    other = {**FINGERPRINT, "torch": "2.12.0"}
    phase2 = card(51, 100, change=one_ulp("lm loss", 60, at=True))
    verdict = judged(tmp_path, golden_fingerprint=other, phase2=phase2)
    assert row_of(verdict, "resume", "lm loss").verdict == "regression"


def test_no_outlier_step_is_excused(tmp_path):
    other = {**FINGERPRINT, "torch": "2.12.0"}
    golden = card(
        change=lambda name, step, number: number * 1.06 if (name, step) == ("lm loss", 9) else number
    )
    verdict = judged(tmp_path, golden=golden, golden_fingerprint=other)
    assert row_of(verdict, "golden", "lm loss").verdict == "regression"


@pytest.mark.parametrize("field", ["case", "corpus"])
def test_card_of_another_configuration_fails_though_all_values_are_equal(tmp_path, field):
    verdict = judged(tmp_path, golden_fingerprint={**FINGERPRINT, field: "e" * 64, "torch": "2.12.0"})
    row = row_of(verdict, "golden", f"digest: {field}")
    assert not row.passed
    assert "recorded for another" in row.note
    assert row_of(verdict, "golden", "lm loss").check == "exact"
    assert verdict.exit_code == 1


def test_deleting_the_provenance_does_not_loosen_a_card_at_full_precision(tmp_path):
    verdict = judged(tmp_path, golden=card(change=one_ulp("lm loss", 9, at=True)), golden_fingerprint=None)
    assert row_of(verdict, "golden", "lm loss").verdict == "regression"
    assert "check it out again" in row_of(verdict, "golden", "provenance").note
    assert judged(tmp_path / "equal", golden_fingerprint=None).exit_code == 1


def test_run_without_deterministic_mode_is_held_to_the_approximate_check(tmp_path):
    changed = card(51, 100, change=one_ulp("lm loss", 60, at=True))
    verdict = judged(tmp_path, phase2=changed, model_args={"--seed": 1})
    row = row_of(verdict, "resume", "lm loss")
    assert (row.check, row.verdict) == ("approximate", "drift")
    assert "--deterministic-mode" in row.note


def test_generic_card_is_held_to_the_approximate_checks(tmp_path):
    path = write_golden(tmp_path, card(change=one_ulp("lm loss", 9, at=True)), platform="dgx_a100")
    path.rename(path.with_name("golden_values_lts.json"))
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    row = row_of(verdict, "golden", "lm loss")
    assert (row.check, row.verdict) == ("approximate", "drift")
    assert "generic" in row.note


def test_card_rounded_to_5_decimals_is_compared_at_5_decimals(tmp_path):
    golden = card(full_precision=False).rounded()
    verdict = judged(tmp_path, golden=golden)
    row = row_of(verdict, "golden", "lm loss")
    assert (row.check, row.verdict) == ("exact", "exact")
    assert "5 decimals" in row.note


def test_edited_card_is_said_to_be_edited(tmp_path):
    path = write_golden(tmp_path)
    path.write_text(path.read_text().replace("1014.0", "1015.0", 1))
    verdict = judge_run(write_run(tmp_path / "run"), root=tmp_path)
    assert verdict.exit_code == 1
    assert any("edited" in note for note in verdict.notes)


def scaled(metric, factor):
    return lambda name, step, number: number * factor if name == metric else number


@pytest.mark.parametrize(
    ("factor", "verdict", "passed"),
    [(1.09, "drift", True), (1.2, "regression", False), (0.95, "drift", True), (0.8, "improvement", True)],
)
def test_memory_on_the_cpu_is_one_sided_at_10_percent_and_8_mib(tmp_path, factor, verdict, passed):
    result = judged(tmp_path, phase1=card(change=scaled("mem-allocated-bytes", factor)), test_type="regular")
    row = row_of(result, "golden", "mem-allocated-bytes")
    assert (row.verdict, row.passed) == (verdict, passed)
    assert result.passed is passed


@pytest.mark.parametrize(
    ("factor", "verdict", "passed"),
    [(1.04, "drift", True), (1.06, "regression", False), (0.5, "improvement", True)],
)
def test_iteration_time_is_judged_on_a_gpu(tmp_path, factor, verdict, passed):
    changed = card(change=scaled("iteration-time", factor))
    result = judged(tmp_path, phase1=changed, test_type="regular", platform="dgx_a100")
    row = row_of(result, "golden", "iteration-time")
    assert (row.verdict, row.passed, row.steps) == (verdict, passed, "median 30-45")


def test_iteration_time_of_a_restart_is_shown_on_a_gpu_too(tmp_path):
    slow = card(51, change=scaled("iteration-time", 2.0))
    result = judged(tmp_path, phase2=slow, platform="dgx_a100")
    assert row_of(result, "resume", "iteration-time").verdict == "not judged"
    assert row_of(result, "golden", "iteration-time").verdict == "exact"
    assert result.passed


@pytest.mark.parametrize(
    ("test_type", "restarts", "code"), [("regular", 0, 0), ("regular", 1, 1), ("crash-resume", 1, 1)]
)
def test_restarts_that_the_case_did_not_ask_for_fail(tmp_path, test_type, restarts, code):
    write_golden(tmp_path)
    run = write_run(tmp_path / "run", test_type=test_type)
    write_json(run / "phase1.json", {"phase": 1, "steps": [1, 100], "restarts": restarts})
    assert judge_run(run, root=tmp_path).exit_code == code


def test_megatron_policy_of_a_run_rounds_and_excuses_one_step(tmp_path):
    phase1 = card(change=lambda name, step, number: 1e9 if (name, step) == ("lm loss", 9) else number)
    verdict = judged(
        tmp_path, phase1=phase1, golden=card(full_precision=False).rounded(), options=Options(policy=MEGATRON)
    )
    exact, approximate = rows_of(verdict, "golden", "lm loss")
    assert (exact.check, exact.passed) == ("exact", False)
    assert (approximate.check, approximate.passed) == ("approximate", True)
    assert row_of(verdict, "golden", "grad-norm").verdict == "not judged"


def test_malformed_evidence_never_passes(tmp_path):
    for index, broken in enumerate(
        ({"state": []}, {"steps": "51-100"}, {"loaded_iteration": True}, {"restarts": None})
    ):
        write_golden(tmp_path)
        verdict = judge_run(write_run(tmp_path / f"run{index}", record2=broken), root=tmp_path)
        assert verdict.exit_code == 1, broken


def test_a_restart_on_another_layout_is_held_to_the_approximate_checks(tmp_path):
    def off(metric, step, value):
        return value * 1.001 if metric == "lm loss" else value

    common = {part: f"{part}-{'0' * 50}" for part in ("optimizer_steps", "scheduler", "consumed_samples")}
    ranks = {rank: digests | common for rank, digests in state().items()}
    record = {"state": {str(SAVED): {rank: ranks[rank] for rank in "0123"}}}
    options = {"phase2": card(51, 100, change=off), "record2": record}
    run = write_run(tmp_path / "run", restart={"model_args": {}, "ranks": 4}, **options)
    phase1 = read_json_object(run / "phase1.json")
    write_json(run / "phase1.json", {**phase1, "state": {str(SAVED): ranks}})
    write_golden(tmp_path)
    verdict = judge_run(run, root=tmp_path)
    assert verdict.exit_code == 0, [row for row in verdict.rows if not row.passed]
    assert row_of(verdict, "resume", "lm loss").verdict == "drift"
    assert row_of(verdict, "resume", "mem-allocated-bytes").verdict == "not judged"
    assert row_of(verdict, "restart", "state: consumed samples").steps == "8 to 4 ranks"
    assert judged(tmp_path / "same", **options).exit_code == 1


@pytest.mark.parametrize(
    ("phase", "facts", "passed"),
    [
        (1, {"torch": "2.0.0"}, False),
        (1, {"commit": "d" * 40}, True),
        (2, {"torch": "2.0.0"}, False),
        (2, {"case": "e" * 64}, False),
    ],
)
def test_both_phases_are_of_the_run_that_they_lie_in(tmp_path, phase, facts, passed):
    write_golden(tmp_path)
    path = write_run(tmp_path / "run") / f"phase{phase}.json"
    record = read_json_object(path)
    write_json(path, {**record, "fingerprint": {**record["fingerprint"], **facts}})
    verdict = judge_run(tmp_path / "run", root=tmp_path)
    assert row_of(verdict, "restart", "same environment").passed is verdict.passed is passed
