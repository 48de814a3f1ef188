"""The verdict on a crash: evidence that nothing was killed, or nothing resumed, fails its row."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tasks.judge.crash_evidence import crash_rows
from tasks.judge.run import judge_run
from tasks.records.card import Card, metric_from
from tasks.records.card_store import write_card
from tasks.util.files import read_json_object
from tests.fake_run import METRICS, card, state, write_golden, write_json, write_run

WANTED = [{"after_step": 73, "ranks": [2]}]
PROCESSES = [{str(rank): 100 * attempt + rank for rank in range(8)} for attempt in range(3)]


def attempt(number: int, first: int, last: int, *, loaded: int | None, **states: dict) -> dict:
    return {
        "attempt": number,
        "processes": PROCESSES[number],
        "steps": [first, last],
        "loaded_iteration": loaded,
        "state": {iteration.removeprefix("at"): ranks for iteration, ranks in states.items()},
    }


RECORD = {
    "phase": 1,
    "steps": [1, 100],
    "restarts": 1,
    "kills": [{"after_step": 73, "processes": {"2": 2}, "ended": True, "newest_checkpoint": 50}],
    "attempts": [
        attempt(0, 1, 74, loaded=None, at50=state()),
        attempt(1, 51, 100, loaded=50, at50=state(), at100=state()),
    ],
}


def changed(*path: str | int, to: object) -> dict:
    record = copy.deepcopy(RECORD)
    part = record
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    return record


def failed(record: dict, wanted: list = WANTED) -> dict[str, str]:
    return {row.metric: row.verdict for row in crash_rows(record, wanted) if not row.passed}


def test_a_proper_crash_passes_every_row() -> None:
    assert failed(RECORD) == {}
    assert {"kills", "killed ranks", "state: rng"} < {row.metric for row in crash_rows(RECORD, WANTED)}


@pytest.mark.parametrize(
    ("record", "metric", "verdict"),
    [
        (changed("kills", to=[]), "kills", "regression"),
        (changed("kills", to=[]), "killed ranks", "missing"),
        (changed("kills", 0, "processes", to={"3": 3}), "killed ranks", "regression"),
        (changed("kills", 0, "processes", to={"2": 77}), "killed ranks", "regression"),
        (changed("kills", 0, "processes", to={"2": 102}), "killed ranks", "regression"),
        (changed("kills", 0, "processes", to={"2": 2, "3": 103}), "killed ranks", "regression"),
        (changed("kills", 0, "ended", to=False), "killed ranks", "regression"),
        (changed("kills", 0, "ended", to=None), "killed ranks", "regression"),
        (changed("kills", 0, "after_step", to=72), "killed after step", "regression"),
        (changed("attempts", 0, "steps", to=[1, 72]), "killed after step", "missing"),
        (changed("attempts", 0, "steps", to=None), "killed after step", "missing"),
        (changed("restarts", to=0), "restarts", "regression"),
        (changed("restarts", to=2), "restarts", "regression"),
        (changed("restarts", to=None), "restarts", "missing"),
        (changed("attempts", 1, "loaded_iteration", to=None), "loaded iteration", "missing"),
        (changed("attempts", 1, "loaded_iteration", to=25), "loaded iteration", "regression"),
        (changed("kills", 0, "newest_checkpoint", to=None), "loaded iteration", "missing"),
        (changed("attempts", 1, "steps", to=[1, 100]), "first step", "regression"),
        (changed("attempts", 1, "state", "50", to=state(rng="f" * 64)), "state: rng", "regression"),
        (changed("attempts", 1, "state", to={}), "state: parameters", "missing"),
        (changed("attempts", 0, "state", to={}), "state: parameters", "missing"),
        (changed("attempts", to=RECORD["attempts"][:1]), "first step", "missing"),
    ],
)
def test_what_is_not_right_fails_its_row(record: dict, metric: str, verdict: str) -> None:
    assert failed(record)[metric] == verdict


def test_a_case_without_kills_tested_nothing() -> None:
    assert "kills" in failed({**RECORD, "restarts": 0, "kills": [], "attempts": []}, [])


def test_a_later_kill_may_load_what_an_earlier_attempt_saved() -> None:
    again = copy.deepcopy(RECORD)
    again["restarts"] = 2
    again["kills"].append({"after_step": 73, "processes": {"2": 102}, "ended": True, "newest_checkpoint": 50})
    again["attempts"][1]["steps"] = [51, 73]
    again["attempts"].append(attempt(2, 51, 100, loaded=50, at50=state()))
    assert failed(again, WANTED * 2) == {}
    again["attempts"][2]["state"]["50"] = state(exp_avg="f" * 64)
    assert failed(again, WANTED * 2) == {"kill 2: state: exp avg": "regression"}


# ---- a whole run ----


def crash_run(directory: Path, *, first: object = None, second: object = None, kills: list = WANTED) -> Path:
    """A run of type crash-resume; ``first`` and ``second`` replace what the attempts logged."""
    run = write_run(directory, test_type="crash-resume")
    content = {"kills": kills, "model_args": {"--deterministic-mode": True, "--train-iters": 100}}
    write_json(run / "case.json", {**read_json_object(run / "case.json"), "case": content})
    write_json(run / "phase1.json", RECORD)
    for number, logged in enumerate((first or card(1, 74), second or card(51, 100))):
        write_card(run / f"actual_phase1_attempt{number}.json", logged)
    return run


def different(at: int):
    return lambda name, step, value: value * 1.01 if (name, step) == ("lm loss", at) else value


def test_a_crash_that_changed_nothing_passes(tmp_path: Path) -> None:
    write_golden(tmp_path)
    verdict = judge_run(crash_run(tmp_path / "run"), root=tmp_path)
    assert verdict.exit_code == 0, [row for row in verdict.rows if not row.passed]
    (row,) = [row for row in verdict.rows if (row.comparison, row.metric) == ("resume", "lm loss")]
    assert (row.steps, row.verdict) == ("51-74", "exact")


@pytest.mark.parametrize(("which", "step"), [("first", 60), ("second", 60), ("first", 74)])
def test_a_step_that_the_attempts_trained_differently_fails(tmp_path: Path, which: str, step: int) -> None:
    write_golden(tmp_path)
    spans = {"first": (1, 74), "second": (51, 100)}
    run = crash_run(tmp_path / "run", **{which: card(*spans[which], change=different(step))})
    verdict = judge_run(run, root=tmp_path)
    assert verdict.exit_code == 1
    failing = {(row.comparison, row.metric, row.first_step) for row in verdict.rows if not row.passed}
    assert failing == {("resume", "lm loss", step)}


def test_of_two_restarts_the_table_says_which_one_trained_differently(tmp_path: Path) -> None:
    write_golden(tmp_path)
    run = crash_run(tmp_path / "run", second=card(51, 80))
    record = copy.deepcopy(RECORD)
    record["attempts"][1]["steps"] = [51, 80]
    record["attempts"].append(attempt(2, 51, 100, loaded=50, at50=state()))
    write_json(run / "phase1.json", record)
    write_card(run / "actual_phase1_attempt2.json", card(51, 100, change=different(60)))
    rows = [row for row in judge_run(run, root=tmp_path).rows if row.comparison == "resume"]
    assert len({row.metric for row in rows}) == len(rows)
    assert [row.metric for row in rows if not row.passed] == ["kill 2: lm loss"]


def test_growth_that_begins_again_with_the_restart_is_no_alarm_and_no_improvement(tmp_path: Path) -> None:
    def grown(bytes_a_step: float) -> Card:
        values = card()
        values.metrics["mem-growth-bytes"] = metric_from(
            range(1, 101), [max(0, step - 5) * bytes_a_step for step in range(1, 101)]
        )
        return values

    write_golden(tmp_path, grown(2.0**20))
    run = crash_run(tmp_path / "run")
    write_card(run / "actual_phase1.json", grown(0.0))
    (row,) = [row for row in judge_run(run, root=tmp_path).rows if row.metric == "mem-growth-bytes"]
    assert (row.comparison, row.verdict, row.note) == ("golden", "drift", "")


def test_attempts_without_values_are_not_dropped_in_silence(tmp_path: Path) -> None:
    write_golden(tmp_path)
    run = crash_run(tmp_path / "run")
    (run / "actual_phase1_attempt0.json").unlink()
    failing = [row for row in judge_run(run, root=tmp_path).rows if not row.passed]
    assert [(row.metric, row.verdict) for row in failing] == [("steps trained twice", "missing")]


@pytest.mark.parametrize(
    ("changed_attempt", "first", "note"),
    [
        ((1, {"loaded_iteration": None}), card(1, 74), "not both have values, or nothing was loaded"),
        ((0, {"steps": None}), card(1, 74), "not both have values, or nothing was loaded"),
        ((0, {"steps": [1, 50]}), card(1, 50), "have no step in common"),
        ((0, {"steps": [1, 51]}), card(1, 50), "has no value of the steps"),
    ],
)
def test_steps_that_were_not_trained_twice_are_no_agreement(
    tmp_path: Path, changed_attempt: tuple[int, dict], first: Card, note: str
) -> None:
    write_golden(tmp_path)
    run, record = crash_run(tmp_path / "run", first=first), copy.deepcopy(RECORD)
    number, change = changed_attempt
    record["attempts"][number] |= change
    write_json(run / "phase1.json", record)
    rows = [row for row in judge_run(run, root=tmp_path).rows if row.comparison == "resume"]
    assert [(row.metric, row.passed) for row in rows] == [("steps trained twice", False)]
    assert note in rows[0].note


def gathers(first: int, last: int, *, without_at: int | None = None, until: int = 100) -> Card:
    """A card with the count of gathers: 0 at the first step after a restart, none after ``until``."""
    counts = {step: 0.0 if step == without_at else 2.0 for step in range(first, min(last, until) + 1)}
    metrics = card(first, last, metrics=["lm loss"]).metrics
    return Card(metrics={**metrics, "overlap-param-gathers": metric_from(counts, counts.values())})


def test_sums_that_died_with_the_attempt_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    write_golden(tmp_path, gathers(1, 100))
    run = crash_run(tmp_path / "run", first=gathers(1, 74, until=70), second=gathers(51, 100))
    write_card(run / "actual_phase1.json", gathers(1, 100))
    verdict = judge_run(run, root=tmp_path)
    steps = {row.metric: (row.steps, row.passed) for row in verdict.rows if row.comparison == "resume"}
    assert steps == {"lm loss": ("51-74", True), "overlap-param-gathers": ("52-70", True)}


def without(metric: str, *steps: int):
    return lambda name, step, value: None if name == metric and step in steps else value


@pytest.mark.parametrize(
    ("first", "lost"),
    [
        (card(1, 74, change=without("lm loss", 60)), "lm loss at step 60"),
        (card(1, 74, change=without("grad-norm", *range(55, 75))), "grad-norm at step 55"),
        (card(1, 74, change=without("num-zeros", 73)), "num-zeros at step 73"),
        (card(1, 74, metrics=METRICS[1:]), "lm loss at step 51"),
        (card(1, 50), "lm loss at step 51"),
    ],
)
def test_what_the_killed_attempt_must_have_logged_and_has_not_is_told(
    tmp_path: Path, first: Card, lost: str
) -> None:
    write_golden(tmp_path)
    verdict = judge_run(crash_run(tmp_path / "run", first=first), root=tmp_path)
    assert [row.note for row in verdict.rows if not row.passed] == [
        f"attempt 0 logged no {lost}, which attempt 1 trained again"
    ]


def test_sums_of_more_steps_than_are_added_up_at_once_cannot_have_died(tmp_path: Path) -> None:
    write_golden(tmp_path, gathers(1, 100))
    run = crash_run(tmp_path / "run", first=gathers(1, 74, until=60), second=gathers(51, 100))
    notes = [row.note for row in judge_run(run, root=tmp_path).rows if row.comparison == "resume"]
    assert notes == ["attempt 0 logged no overlap-param-gathers at step 61, which attempt 1 trained again"]


def test_a_run_in_which_nothing_was_killed_fails(tmp_path: Path) -> None:
    write_golden(tmp_path)
    run = write_run(tmp_path / "run", test_type="crash-resume")
    assert judge_run(run, root=tmp_path).exit_code == 1


def test_the_card_is_that_of_the_case_that_it_names(tmp_path: Path) -> None:
    path = write_golden(tmp_path)
    path.parent.rename(tmp_path / "goldens" / "original")
    run = crash_run(tmp_path / "run")
    assert judge_run(run, root=tmp_path).exit_code == 2, "there is no card of its own"
    write_json(run / "case.json", {**read_json_object(run / "case.json"), "golden_case": "original"})
    assert judge_run(run, root=tmp_path).exit_code == 0


def test_what_megatrons_first_step_sets_apart_is_left_out_after_the_restart(tmp_path: Path) -> None:
    write_golden(tmp_path, gathers(1, 100))
    run = crash_run(tmp_path / "run", first=gathers(1, 74), second=gathers(51, 100, without_at=51))
    case = read_json_object(run / "case.json")
    write_json(run / "case.json", {**case, "metrics": ["lm loss", "overlap-param-gathers"]})
    for step, code in ((51, 0), (52, 1)):
        write_card(run / "actual_phase1.json", gathers(1, 100, without_at=step))
        verdict = judge_run(run, root=tmp_path)
        assert verdict.exit_code == code, [row for row in verdict.rows if not row.passed]
        steps = {row.metric: row.steps for row in verdict.rows if row.comparison == "golden"}
        assert steps == {"lm loss": "1-100", "overlap-param-gathers": "1-100 (99 steps)"}
    assert any("without step 51" in note for note in verdict.notes)
