"""Every sentence of the explanation, each with values made to cause it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.judge.explanation import trend
from tasks.judge.run import judge_pair, judge_run
from tasks.records.card import metric_from
from tests.fake_run import FINGERPRINT, SAVED, card, state, write_golden, write_run


def sentences_of(tmp_path, *, golden=None, fingerprint=FINGERPRINT, **run):
    write_golden(tmp_path, golden, fingerprint=fingerprint, platform=run.get("platform", "cpu_x86_64"))
    return judge_run(write_run(tmp_path / "run", **run), root=tmp_path).sentences


def from_step(first, *metrics, factor=1.01, until=10**9):
    return lambda name, step, number: number * factor if name in metrics and first <= step < until else number


def test_nothing_to_say_about_an_equal_run(tmp_path):
    assert sentences_of(tmp_path) == []


def test_the_restart_did_not_restore_all_state(tmp_path):
    sentences = sentences_of(tmp_path, phase2=card(51, change=from_step(51, "lm loss")))
    assert (
        "identical through step 50, diverges at step 51: the restart did not restore all state, or a "
        "computation does not repeat: every digest of the loaded state was right "
        '(see docs/determinism.md, "Again and again")'
    ) in sentences
    assert any(
        line.startswith("resume: lm loss: identical through step 50, diverges at step 51, by up to ")
        for line in sentences
    )


def test_the_restart_parts_later_and_the_state_that_differs_is_named(tmp_path):
    record = {"state": {str(SAVED): state(optimizer_steps="e" * 64)}}
    sentences = sentences_of(tmp_path, phase2=card(51, change=from_step(52, "lm loss")), record2=record)
    assert (
        "identical through step 51, diverges at step 52: the restart did not restore all state: "
        "optimizer steps (rank 3: not what was saved)"
    ) in sentences


def test_state_that_differs_without_a_trace_in_the_values(tmp_path):
    sentences = sentences_of(tmp_path, record2={"state": {str(SAVED): state(rng="e" * 64)}})
    assert sentences == [
        "values are identical: the restart did not restore all state: rng (rank 3: not what was saved)"
    ]


def test_trained_again_from_the_start(tmp_path):
    sentences = sentences_of(
        tmp_path, phase2=card(), record2={"loaded_iteration": None, "steps": [1, 100], "state": {}}
    )
    assert "nothing was loaded: phase 2 trained again from the start" in sentences


def test_differs_from_step_1(tmp_path):
    changed = from_step(1, "lm loss", "grad-norm", "num-zeros")
    sentences = sentences_of(tmp_path, phase1=card(change=changed), phase2=card(51, change=changed))
    assert "differs from step 1: initialisation, data or environment" in sentences
    assert not any("restart" in line for line in sentences)


def test_parts_where_no_restart_was(tmp_path):
    changed = from_step(37, "lm loss")
    sentences = sentences_of(tmp_path, phase1=card(change=changed), phase2=card(51, change=changed))
    assert (
        "identical through step 36, diverges at step 37: what step 37 brings: data, schedule, a rare branch, "
        "or chance"
    ) in sentences


def test_phase_1_parts_after_its_checkpoint(tmp_path):
    changed = from_step(51, "lm loss")
    sentences = sentences_of(tmp_path, phase1=card(change=changed), phase2=card(51, change=changed))
    assert (
        "identical through step 50, diverges at step 51: saving the checkpoint changed the state" in sentences
    )


def test_two_cards_that_part_at_a_step_in_between(tmp_path):
    golden = write_golden(tmp_path / "a")
    actual = write_golden(tmp_path / "b", card(change=from_step(51, "lm loss")))
    sentences = judge_pair(golden, actual).sentences
    assert any(
        line.startswith(
            "identical through step 50, diverges at step 51: the restart did not restore all state"
        )
        for line in sentences
    )


def test_loss_equal_but_zeros_differ(tmp_path):
    changed = from_step(1, "num-zeros")
    sentences = sentences_of(tmp_path, phase1=card(change=changed), phase2=card(51, change=changed))
    assert (
        "lm loss identical, num-zeros differ: only the gradients changed, not the forward pass" in sentences
    )


def test_drift_of_a_changed_environment(tmp_path):
    changed = from_step(3, "lm loss")
    sentences = sentences_of(
        tmp_path,
        phase1=card(change=changed),
        phase2=card(51, change=changed),
        fingerprint={**FINGERPRINT, "torch": "2.12.0"},
    )
    changed = "torch 2.12.0 → 2.13.0"
    assert (
        f"all within tolerance and the environment changed ({changed}): drift, record a new card" in sentences
    )


def test_drift_in_an_unchanged_environment_does_not_blame_it(tmp_path):
    changed = from_step(3, "lm loss")
    run = {"phase1": card(change=changed), "phase2": card(51, change=changed), "model_args": {"--seed": 1}}
    assert "all within tolerance of a card that is compared approximately: drift" in sentences_of(
        tmp_path, **run
    )


def test_no_drift_is_said_when_something_is_outside_tolerance(tmp_path):
    changed = from_step(3, "lm loss", factor=1.5)
    sentences = sentences_of(
        tmp_path,
        phase1=card(change=changed),
        phase2=card(51, change=changed),
        fingerprint={**FINGERPRINT, "torch": "2.12.0"},
    )
    assert not any("drift" in line for line in sentences)


def test_slower_with_equal_loss_is_performance(tmp_path):
    sentences = sentences_of(
        tmp_path,
        phase1=card(change=from_step(1, "iteration-time", factor=1.31)),
        test_type="regular",
        platform="dgx_a100",
    )
    assert sentences == ["steps 30 to 45 are 31 % slower and loss is identical: performance"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("relative-forward-time", "forward passes of steps"),
        ("relative-backward-time", "backward passes of steps"),
        ("relative-step-time", "computations of steps"),
    ],
)
def test_a_slowdown_on_a_cpu_is_explained_as_one_on_a_gpu(tmp_path, name, part):
    def timed(time: float):
        values = card()
        values.metrics[name] = metric_from(range(1, 101), [time] * 100)
        return values

    for factor, sentence in (
        (1.5, f"{part} 30 to 45 are 50 % slower and loss is identical: performance"),
        (0.5, f"{part} 30 to 45 are 50 % faster: an improvement, record a new card to keep it"),
    ):
        where = tmp_path / str(factor)
        run = {"phase1": timed(24.0 * factor), "test_type": "regular", "platform": "cpu_x86_64"}
        assert sentences_of(where, golden=timed(24.0), **run) == [sentence]


def test_slower_with_another_loss_says_so(tmp_path):
    changed = from_step(1, "iteration-time", "lm loss", factor=1.31)
    sentences = sentences_of(tmp_path, phase1=card(change=changed), test_type="regular", platform="dgx_a100")
    assert "steps 30 to 45 are 31 % slower and loss differs too: performance" in sentences


def test_faster_is_an_improvement(tmp_path):
    changed = from_step(1, "iteration-time", factor=0.5)
    sentences = sentences_of(tmp_path, phase1=card(change=changed), test_type="regular", platform="dgx_a100")
    assert sentences == ["steps 30 to 45 are 50 % faster: an improvement, record a new card to keep it"]


def test_more_memory(tmp_path):
    changed = from_step(60, "mem-allocated-bytes", factor=1.2, until=61)
    sentences = sentences_of(tmp_path, phase1=card(change=changed), test_type="regular")
    assert sentences == ["mem-allocated-bytes at step 60 is 20 % bigger and loss is identical: memory"]


def test_nan_is_named_with_its_step(tmp_path):
    changed = from_step(37, "lm loss", factor=float("nan"))
    sentences = sentences_of(tmp_path, phase1=card(change=changed), test_type="regular")
    assert "golden: lm loss: actual value at step 37 is nan" in sentences


def test_run_that_ended_early(tmp_path):
    sentences = sentences_of(tmp_path, phase1=card(1, 70), test_type="regular")
    assert (
        "lm loss: step 71 and 29 more missing in the actual values: the run ended early, or did not log it"
    ) in sentences


def test_another_configuration(tmp_path):
    sentences = sentences_of(tmp_path, fingerprint={**FINGERPRINT, "case": "f" * 64})
    assert sentences == [
        "the card was recorded for another configuration (digest: case): "
        "record a new card, or undo the change"
    ]


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        (np.linspace(1, 10, 30), "grows"),
        (np.linspace(10, 1, 30), "shrinks"),
        (np.full(30, 3.0), "stays"),
        ([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], "stays"),
        ([1e-7, 0.0, 0.0, 0.0, 0.0, 1e-3], "grows"),
        ([1.0, 2.0, 3.0], None),
        ([np.inf] * 9, None),
    ],
)
def test_trend(gaps, expected):
    assert trend(np.array(gaps)) == expected


def test_course_tells_distance_and_trend(tmp_path):
    def step_up(name, step, number):
        return number + (step - 10) * 2.0**-18 if name == "lm loss" and step > 10 else number

    sentences = sentences_of(tmp_path, phase1=card(change=step_up), phase2=card(51, change=step_up))
    (course,) = [line for line in sentences if line.startswith("golden: lm loss")]
    assert (
        course
        == "golden: lm loss: identical through step 10, diverges at step 11, by up to 1440 ulp, the gap grows"
    )


@pytest.mark.parametrize(
    ("mib", "sentence"),
    [
        (60, "mem-growth-bytes at step 60 is 20 % bigger and loss is identical: memory"),
        (30, "mem-growth-bytes at step 60 is 40 % smaller: an improvement, record a new card to keep it"),
    ],
)
def test_memory_is_told_with_a_step_that_left_the_tolerance(tmp_path, mib, sentence):
    """Before it, steps differ by more of their value, inside the tolerance."""

    def with_growth(mib_before, mib_after):
        values = card()
        grown = [2.0**20 * (mib_before if step < 60 else mib_after) for step in range(1, 101)]
        values.metrics["mem-growth-bytes"] = metric_from(range(1, 101), grown)
        return values

    run = {"phase1": with_growth(3, mib), "test_type": "regular"}
    assert sentences_of(tmp_path, golden=with_growth(1, 50), **run) == [sentence]


def test_memory_that_was_not_measured_is_no_improvement(tmp_path):
    """On both sides; the values that there are differ by little."""
    lost = card(
        change=lambda name, step, number: 0.0 if step == 3 and name == "mem-allocated-bytes" else number
    )
    less = card(change=from_step(1, "mem-allocated-bytes", factor=0.999))
    less.metrics["mem-allocated-bytes"].values[2] = 0.0
    assert sentences_of(tmp_path, golden=lost, phase1=less, test_type="regular") == []
    (row,) = [row for row in judge_run(tmp_path / "run", root=tmp_path).rows if not row.passed]
    assert row.note == "actual value is 0.0 at step 3: nothing was measured"
