"""The proof of a restart: any part of the evidence that is missing or different fails its row."""

from __future__ import annotations

import hashlib

import pytest

from tasks.judge.restart_evidence import (
    layout_rows,
    no_restart_row,
    processes_of,
    restart_rows,
)
from tasks.records.state import COMMON_STATE, STATE
from tests.fake_run import SAVED, state

PHASE_1 = {
    "steps": [1, 100],
    "loaded_iteration": None,
    "restarts": 0,
    "state": {"50": state(), "100": state()},
}
PHASE_2 = {"steps": [51, 100], "loaded_iteration": SAVED, "restarts": 0, "state": {"50": state()}}


def failed(phase1=PHASE_1, phase2=PHASE_2):
    return {row.metric: row for row in restart_rows(phase1, phase2) if not row.passed}


def test_a_proper_restart_passes_every_row():
    rows = restart_rows(PHASE_1, PHASE_2)
    assert failed() == {}
    assert {row.metric for row in rows} >= {"loaded iteration", "first step", "restarts"} | {
        f"state: {part.replace('_', ' ')}" for part in STATE
    }


@pytest.mark.parametrize(
    ("change", "metric", "verdict"),
    [
        ({"loaded_iteration": None}, "loaded iteration", "missing"),
        ({"loaded_iteration": 49}, "loaded iteration", "regression"),
        ({"loaded_iteration": 100}, "loaded iteration", "regression"),
        ({"loaded_iteration": 0}, "loaded iteration", "regression"),
        ({"loaded_iteration": True}, "loaded iteration", "missing"),
        ({"steps": [1, 100]}, "first step", "regression"),
        ({"steps": [52, 100]}, "first step", "regression"),
        ({"steps": None}, "first step", "missing"),
        ({"steps": [51, 99]}, "last step", "regression"),
        ({"restarts": 1}, "restarts", "regression"),
        ({"restarts": None}, "restarts", "missing"),
        ({"state": {}}, "state: parameters", "missing"),
        ({"state": {"49": state()}}, "state: rng", "missing"),
        ({"state": None}, "state: exp avg", "missing"),
    ],
)
def test_what_is_not_right_fails_its_row(change, metric, verdict):
    row = failed(phase2={**PHASE_2, **change})[metric]
    assert row.verdict == verdict


@pytest.mark.parametrize("part", STATE)
def test_one_rank_with_another_state_fails_and_is_named(part):
    (row,) = failed(phase2={**PHASE_2, "state": {"50": state(**{part: "f" * 64})}}).values()
    assert row.metric == f"state: {part.replace('_', ' ')}"
    assert row.verdict == "regression"
    assert "rank 3" in row.note


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("loss", ["rank", "part", "empty", "of no bytes", "of no tensor"])
def test_a_rank_or_part_that_is_not_recorded_fails(side, loss):
    ranks = state()
    if loss == "rank":
        del ranks["7"]
    elif loss == "part":
        del ranks["7"]["rng"]
    else:
        nothing = {"empty": "", "of no bytes": hashlib.sha256(b"").hexdigest(), "of no tensor": "0" * 16}
        ranks["7"]["rng"] = nothing[loss]
    phases = [dict(PHASE_1), dict(PHASE_2)]
    phases[side]["state"] = {"50": ranks}
    rows = failed(*phases)
    assert rows["state: rng"].verdict == "missing"
    assert "rank 7" in rows["state: rng"].note


def test_a_part_that_no_rank_records_on_either_side_fails():
    ranks = state()
    for rank in ranks.values():
        del rank["next_batch"]
    rows = failed({**PHASE_1, "state": {"50": ranks}}, {**PHASE_2, "state": {"50": ranks}})
    assert set(rows) == {"state: next batch"}


def test_a_rank_that_took_part_and_recorded_nothing_on_either_side_fails():
    one = {"0": state()["0"]}
    started = {"attempts": [{"processes": {"0": 7, "1": 8}}]}
    phase1, phase2 = {**PHASE_1, "state": {"50": one}}, {**PHASE_2, "state": {"50": one}}
    assert failed(phase1, phase2) == {}
    assert failed({**phase1, **started}, phase2).keys() == failed(phase1, {**phase2, **started}).keys()
    rows = failed(phase1, {**phase2, **started})
    assert set(rows) >= {f"state: {part.replace('_', ' ')}" for part in STATE}
    assert rows["state: rng"].note == "rank 1: not recorded on both sides"
    for sides in (({**phase1, **started}, phase2), (phase1, {**phase2, **started})):
        assert {row.metric for row in layout_rows(*sides) if not row.passed} == {
            f"state: {part.replace('_', ' ')}" for part in COMMON_STATE
        }


def test_steps_that_neither_side_recorded_are_not_equal():
    rows = failed({**PHASE_1, "steps": None}, {**PHASE_2, "steps": None})
    assert {name: row.verdict for name, row in rows.items()} == {
        "loaded iteration": "missing",
        "first step": "missing",
        "last step": "missing",
    }


def test_an_older_checkpoint_may_be_the_one_that_was_loaded():
    phase1 = {**PHASE_1, "state": {"25": state(), **PHASE_1["state"]}}
    assert (
        failed(phase1, {**PHASE_2, "loaded_iteration": 25, "steps": [26, 100], "state": {"25": state()}})
        == {}
    )


@pytest.mark.parametrize(
    ("subject", "lacking"), [("", {"state: next batch"}), ("megatron-core-0.19.2", set())]
)
def test_of_megatron_lm_the_next_batch_cannot_be_known(subject, lacking):
    ranks = state()
    for rank in ranks.values():
        del rank["next_batch"]
    phase1 = {**PHASE_1, "state": {"50": ranks}}
    assert set(failed(phase1, {**PHASE_2, "state": {"50": ranks}, "subject": subject})) == lacking


def test_the_ranks_of_a_phase_are_those_of_its_last_attempt():
    attempts = [{"processes": {"0": 7}}, {"processes": {"0": 8, "1": 9}}]
    assert processes_of({"attempts": attempts}) == {"0": 8, "1": 9}
    assert processes_of(attempts[0]) == {"0": 7}
    assert processes_of({}) == {}


def test_a_name_that_is_no_iteration_is_no_save():
    assert failed({**PHASE_1, "state": {"²": state(), "50": state()}}) == {}


def test_a_part_that_only_the_saving_side_knows_is_compared_too():
    ranks = state()
    ranks["0"]["dataloader"] = "1" * 64
    assert set(failed({**PHASE_1, "state": {"50": ranks}})) == {"state: dataloader"}


def test_restart_of_a_phase_in_phase_1_counts():
    assert set(failed({**PHASE_1, "restarts": 1})) == {"restarts"}


def test_state_that_neither_side_recorded_fails():
    rows = failed(phase2={**PHASE_2, "loaded_iteration": None})
    assert {rows[f"state: {part.replace('_', ' ')}"].verdict for part in STATE} == {"missing"}


def test_no_checkpoint_before_the_end():
    assert failed({**PHASE_1, "state": {"100": state()}})["loaded iteration"].verdict == "missing"


@pytest.mark.parametrize(("restarts", "passed"), [(0, True), (1, False), (None, False)])
def test_a_case_of_one_phase_is_never_restarted(restarts, passed):
    assert no_restart_row({"restarts": restarts}).passed is passed


def whole(ranks, **changed):
    """Digests that every rank records alike."""
    digests = {part: f"{part}-{'1' * 40}" for part in COMMON_STATE}
    return {str(rank): digests | changed for rank in range(ranks)}


def failed_on_another_layout(before, after, **record):
    phase1, phase2 = {**PHASE_1, "state": {"50": before}}, {**PHASE_2, "state": {"50": after}, **record}
    return {row.metric: row for row in layout_rows(phase1, phase2) if not row.passed}


def test_another_layout_is_compared_by_what_all_ranks_record_alike():
    assert failed_on_another_layout(whole(8), whole(4)) == {}
    assert {row.steps for row in layout_rows(PHASE_1, PHASE_2)} >= {"8 to 8 ranks"}
    rows = failed_on_another_layout(whole(8), whole(4), loaded_iteration=49)
    assert rows["loaded iteration"].verdict == "regression"


@pytest.mark.parametrize("part", COMMON_STATE)
def test_on_another_layout_any_part_that_is_not_what_was_saved_fails(part):
    name = f"state: {part.replace('_', ' ')}"
    (row,) = failed_on_another_layout(whole(8), whole(4, **{part: "2" * 40})).values()
    assert (row.metric, row.verdict, row.note) == (name, "regression", "not what was saved")
    one_rank = whole(4)
    one_rank["3"][part] = "2" * 40
    assert failed_on_another_layout(whole(8), one_rank)[name].note == "not the same on all ranks"
    assert failed_on_another_layout(whole(8, **{part: ""}), whole(4))[name].verdict == "missing"
    nothing = {part: "0" * 16}  # as whole_state_digests writes the sum over no element
    assert failed_on_another_layout(whole(8, **nothing), whole(4, **nothing))[name].verdict == "missing"
    del one_rank["3"][part]
    assert failed_on_another_layout(whole(8), one_rank)[name].verdict == "missing"
    assert failed_on_another_layout({}, whole(4))[name].verdict == "missing"
