"""Evidence of a crash: ranks were killed, and the next attempt resumed from the newest checkpoint.

Each kill ends an attempt; the elastic agent's restart begins the next. For each such pair: the killed ranks,
the loaded iteration, the state of every rank, and the values of the steps that both attempts trained.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from tasks.cases.metrics import SUMS_EVERY, TABLE, metric_named
from tasks.judge.restart_evidence import (
    Record,
    equal_row,
    first_step_row,
    last_step,
    loaded_iteration,
    saved_states,
    state_rows,
)
from tasks.judge.rows import CHECK_EXACT, MISSING, REGRESSION, RESUME, Reason, Row
from tasks.records.card import Card, Metric
from tasks.records.run import Run
from tasks.util.files import mapping, whole


def crash_rows(record: Record, wanted: list[Record]) -> list[Row]:
    """Rows from a phase's record, for the kills that the case wants. A case in which nothing was killed, or
    that restarted more or less often than it was killed, fails.
    """
    done, attempts = records(record, "kills"), records(record, "attempts")
    rows = [
        equal_row("kills", len(wanted), len(done)),
        equal_row("restarts", len(wanted), whole(record.get("restarts"))),
    ]
    if not wanted:
        rows[0] = rows[0].because(MISSING, Reason.NO_KILL_IN_CASE)
    saved: dict[int, Record] = {}
    for index, kill in enumerate(wanted):
        killed = done[index] if index < len(done) else {}
        before, after = (attempts[at] if at < len(attempts) else {} for at in (index, index + 1))
        saved |= saved_states(before)
        loaded = loaded_iteration(after)
        found = [
            _killed_ranks_row(kill, killed, before),
            _killed_after_row(kill, killed, before),
            _loaded_row(killed, after),
            first_step_row(after),
            *state_rows(saved, after, loaded, before=before),
        ]
        rows += [named(row, index) for row in found]
    return rows


def twice_trained(run: Run) -> tuple[list[tuple[Card, Card]], Row | None]:
    """The values of the steps that two attempts both trained, a pair per restart; or the row that says
    why there are none. Times are skipped: a restarted process starts slowly, and those of the first attempt
    are compared with the golden card.
    """
    attempts = records(run.record1 or {}, "attempts")
    if len(attempts) < 2:
        return [], _not_trained_twice(Reason.NO_RESTART)
    pairs = []
    for before, after in itertools.pairwise(attempts):
        numbers = {"first": whole(before.get("attempt")), "second": whole(after.get("attempt"))}
        cards = [run.attempts.get(number) for number in numbers.values()]
        loaded, ends = loaded_iteration(after), [last_step(before), last_step(after)]
        if None in cards or loaded is None or None in ends:
            return [], _not_trained_twice(Reason.ATTEMPT_WITHOUT_VALUES, **numbers)
        last = min(ends)
        if last <= loaded:
            return [], _not_trained_twice(Reason.NO_COMMON_STEP, **numbers)
        first, second = (_untimed(card).between(loaded + 1, last) for card in cards)
        if lost := _not_logged(first, second, last):
            return [], _not_trained_twice(Reason.VALUE_NOT_LOGGED, value=lost, **numbers)
        pairs.append(_as_far_as_logged(first, second))
        if not pairs[-1][0].metrics:
            return [], _not_trained_twice(Reason.NOTHING_TRAINED_TWICE, **numbers)
    return pairs, None


def _not_trained_twice(reason: Reason, **details: object) -> Row:
    return Row.missing(RESUME, "steps trained twice", reason, check=CHECK_EXACT, **details)


def without_first_steps(run: Run, card: Card) -> tuple[Card, list[str]]:
    """A card without the first step after each restart, in the metrics where that step differs; and a note on
    each of these metrics.
    """
    loaded = map(loaded_iteration, records(run.record1 or {}, "attempts")[1:])
    steps = sorted({iteration + 1 for iteration in loaded if iteration is not None})
    metrics, notes = dict(card.metrics), []
    for name, metric in TABLE.items():
        if not metric.first_step_apart or name not in metrics or not steps:
            continue
        metrics[name] = _without(metrics[name], steps)
        listed = ", ".join(map(str, steps))
        notes.append(f"{name}: without step {listed}, the first after a restart: {metric.first_step_apart}")
    return dataclasses.replace(card, metrics=metrics), notes


def records(record: Record, name: str) -> list[Record]:
    """A list of mappings in a record; what is of another shape counts as absent."""
    value = record.get(name)
    return [mapping(item) for item in value] if isinstance(value, list) else []


def _killed_ranks_row(kill: Record, killed: Record, before: Record) -> Row:
    processes, alive = mapping(killed.get("processes")), mapping(before.get("processes"))
    own = [rank for rank, process_id in processes.items() if alive.get(rank) == process_id]
    row = equal_row("killed ranks", _listed(kill.get("ranks")), _listed(own))
    if not processes:
        return row.because(MISSING, Reason.NOTHING_KILLED)
    if len(own) < len(processes):
        return row.because(REGRESSION, Reason.KILLED_NO_RANK)
    if killed.get("ended") is not True:
        return row.because(REGRESSION, Reason.NOT_ENDED)
    return row


def _killed_after_row(kill: Record, killed: Record, before: Record) -> Row:
    row = equal_row("killed after step", whole(kill.get("after_step")), whole(killed.get("after_step")))
    logged, wanted = last_step(before), whole(kill.get("after_step"))
    if row.passed and (logged is None or logged < wanted):
        return row.because(MISSING, Reason.KILLED_EARLY, last=logged or "none")
    return row


def _loaded_row(killed: Record, after: Record) -> Row:
    newest, loaded = whole(killed.get("newest_checkpoint")), loaded_iteration(after)
    row = equal_row("loaded iteration", newest, loaded)
    if newest is None:
        return row.because(MISSING, Reason.NOTHING_SAVED)
    if loaded is None:
        return row.because(MISSING, Reason.NOTHING_LOADED, what="the restart")
    return row


def named(row: Row, index: int) -> Row:
    """The row, with the number of the kill in its name from the second kill on."""
    return dataclasses.replace(row, metric=f"kill {index + 1}: {row.metric}") if index else row


def _listed(ranks: object) -> str:
    numbers = map(str, ranks) if isinstance(ranks, list) else ()
    return ", ".join(sorted(numbers, key=lambda rank: (len(rank), rank)))


def _untimed(card: Card) -> Card:
    kept = {name: metric for name, metric in card.metrics.items() if not metric_named(name).kind.median}
    return dataclasses.replace(card, metrics=kept)


def _as_far_as_logged(first: Card, second: Card) -> tuple[Card, Card]:
    """Both attempts, each metric up to the last step that the killed one logged: sums over ranks are written
    every few steps, so the newest are lost with it.
    """
    logged = {name: metric for name, metric in first.metrics.items() if metric.steps.size}
    common = [name for name in second.metrics if name in logged]
    again = {name: second.metrics[name].between(0, int(logged[name].steps[-1])) for name in common}
    return Card(metrics=logged), Card(metrics=again)


def _not_logged(first: Card, second: Card, last: int) -> str:
    """The first value up to step ``last`` that the killed attempt did not log; empty if there is none."""
    for name, again in second.metrics.items():
        died = SUMS_EVERY if metric_named(name).summed else 1
        logged = first.metrics[name].steps if name in first.metrics else ()
        lost = np.setdiff1d(again.steps[again.steps <= last - died], logged)
        if lost.size:
            return f"{name} at step {lost[0]}"
    return ""


def _without(metric: Metric, steps: list[int]) -> Metric:
    kept = ~np.isin(metric.steps, steps)
    texts = {step: text for step, text in metric.texts.items() if step not in steps}
    return dataclasses.replace(metric, steps=metric.steps[kept], values=metric.values[kept], texts=texts)
