"""Evidence of a restart: the loaded iteration, the first and last step, and the state of every rank."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from tasks.judge.rows import EXACT, MISSING, REGRESSION, RESTART, Reason, Row
from tasks.records.state import COMMON_STATE, STATE
from tasks.util.files import mapping, whole

Record = Mapping[str, object]  # as JSON has it
STATE_LABEL = "state: "  # begins the name of a row about a part of the state
# Digests of nothing at all: of no bytes, and the sum over no element of any rank. They prove nothing.
OF_NOTHING = (hashlib.sha256().hexdigest(), "0" * 16)
# Megatron-LM's data iterators cannot show the next batch without taking it; a wrong one changes the loss.
NOT_OF_MEGATRON_LM = frozenset({"next_batch"})


def restart_rows(phase1: Record, phase2: Record) -> list[Row]:
    """Rows from the records of both phases. What is missing or of another shape fails; nothing is assumed."""
    loaded = loaded_iteration(phase2)
    return _course_rows(phase1, phase2) + state_rows(saved_states(phase1), phase2, loaded, before=phase1)


def layout_rows(phase1: Record, phase2: Record) -> list[Row]:
    """Of a restart on another layout of ranks: without the state that a rank shares with none of before."""
    loaded = loaded_iteration(phase2)
    before = saved_states(phase1).get(loaded, {}) if loaded is not None else {}
    after = mapping(mapping(phase2.get("state")).get(str(loaded)))
    absent = bool({*processes_of(phase1)} - {*before} or {*processes_of(phase2)} - {*after})
    return _course_rows(phase1, phase2) + [_common_row(part, before, after, absent) for part in COMMON_STATE]


def _course_rows(phase1: Record, phase2: Record) -> list[Row]:
    loaded = loaded_iteration(phase2)
    return [
        _loaded_row(loaded, sorted(saved_states(phase1)), last_step(phase1)),
        first_step_row(phase2),
        equal_row("last step", last_step(phase1), last_step(phase2)),
        # The start of phase 2 is one restart; those by the elastic agent inside a phase are added.
        equal_row("restarts", 1, _restarts(phase1, phase2)),
    ]


def first_step_row(record: Mapping[str, object]) -> Row:
    """The row that passes if a phase or an attempt began right after the iteration that it loaded."""
    loaded = loaded_iteration(record)
    return equal_row("first step", None if loaded is None else loaded + 1, first_step(record))


def state_rows(
    saved: Mapping[int, Record],
    after: Record,
    loaded: int | None,
    *,
    before: Record,
) -> list[Row]:
    """One row per part of the state: every rank's digest when iteration ``loaded`` was saved, and after it
    was loaded. The ranks of both records, ``before`` and ``after``, count.
    """
    loads = mapping(mapping(after.get("state")).get(str(loaded)))
    saves = saved.get(loaded, {}) if loaded is not None else {}
    wanted = [part for part in STATE if part not in NOT_OF_MEGATRON_LM or not after.get("subject")]
    parts = [*wanted, *sorted({part for rank in saves.values() for part in mapping(rank)} - set(wanted))]
    started = {**processes_of(before), **processes_of(after)}
    return [_state_row(part, saves, loads, started) for part in parts]


def no_restart_row(phase1: Record) -> Row:
    """The row of a case of one phase that asks for no crash: the elastic agent restarted nothing."""
    return equal_row("restarts", 0, whole(phase1.get("restarts")))


def failed_try_row(failed: Record) -> Row:
    """A try that ``--retries`` repeated is shown, and judges nothing: only the last one has values."""
    name = f"phase {failed.get('phase')}, try {failed.get('attempt')}"
    details = {name: failed.get(name) for name in ("kind", "message", "kept")}
    return Row.shown(RESTART, name, Reason.TRIED_AGAIN, **details)


def loaded_iteration(phase2: Record) -> int | None:
    """The iteration that phase 2 says it loaded, or None."""
    return whole(phase2.get("loaded_iteration"))


def _loaded_row(loaded: int | None, saved: list[int], last: int | None) -> Row:
    usable = [iteration for iteration in saved if last is not None and 0 < iteration < last]
    expected = loaded if loaded in usable else usable[-1] if usable else None
    row = equal_row("loaded iteration", expected, loaded)
    if loaded is None:
        return row.because(MISSING, Reason.NOTHING_LOADED, what="phase 2")
    if not usable:
        return row.because(MISSING, Reason.NO_CHECKPOINT)
    return row


def equal_row(name: str, expected: int | str | None, actual: int | str | None) -> Row:
    """A row that passes when both are known and equal."""
    row = Row(comparison=RESTART, metric=name, golden=expected, actual=actual, verdict=EXACT)
    if expected is None or actual is None:
        return row.because(MISSING, Reason.NOT_RECORDED)
    return row if expected == actual else row.because(REGRESSION, Reason.DIFFERS)


def _restored(part: str, steps: str) -> Row:
    """The row of a restored part of the state."""
    metric = f"{STATE_LABEL}{part.replace('_', ' ')}"
    return Row(comparison=RESTART, metric=metric, steps=steps, verdict=EXACT)


def processes_of(record: Record) -> Record:
    """Process ids by rank, of an attempt or of the last attempt of a phase: the ranks that took part."""
    attempts = record.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else record
    return mapping(mapping(last).get("processes"))


def _state_row(part: str, before: Record, after: Record, started: Record) -> Row:
    ranks = sorted({*before, *after, *started}, key=lambda rank: (len(rank), rank))
    pairs = {rank: (_digest(before, rank, part), _digest(after, rank, part)) for rank in ranks}
    absent = [rank for rank, pair in pairs.items() if None in pair]
    changed = [rank for rank, (saved, loaded) in pairs.items() if rank not in absent and saved != loaded]
    row = _restored(part, f"{len(ranks)} ranks")
    if not ranks:
        return row.because(MISSING, Reason.NO_STATE)
    if changed:
        saved, loaded = pairs[changed[0]]
        row = dataclasses.replace(row, golden=saved[:12], actual=loaded[:12])
        return row.because(REGRESSION, Reason.STATE_DIFFERS, ranks=_listed(changed))
    if absent:
        return row.because(MISSING, Reason.STATE_NOT_RECORDED, ranks=_listed(absent))
    return row


def _common_row(part: str, before: Record, after: Record, absent: bool) -> Row:
    """One digest on each side, the same on every rank there; ``absent``: a rank recorded nothing at all."""
    row = _restored(part, f"{len(before)} to {len(after)} ranks")
    sides = [{_digest(side, rank, part) for rank in side} for side in (before, after)]
    if absent or None in sides[0] | sides[1] or not all(sides):
        return row.because(MISSING, Reason.WHOLE_NOT_RECORDED)
    if any(len(side) > 1 for side in sides):
        return row.because(REGRESSION, Reason.WHOLE_OF_RANKS_DIFFERS)
    (saved,), (loaded,) = sides
    if saved != loaded:
        row = dataclasses.replace(row, golden=saved[:12], actual=loaded[:12])
        return row.because(REGRESSION, Reason.WHOLE_DIFFERS)
    return row


def _listed(ranks: list[str]) -> str:
    return ", ".join(ranks[:8]) + (", …" if len(ranks) > 8 else "")


def _digest(state: Record, rank: str, part: str) -> str | None:
    value = mapping(state.get(rank)).get(part)
    return value if isinstance(value, str) and value and value not in OF_NOTHING else None


def saved_states(record: Record) -> dict[int, Record]:
    """The ranks' digests in a phase's record, by iteration."""
    state = mapping(record.get("state"))
    return {int(key): mapping(ranks) for key, ranks in state.items() if key.isdecimal() and mapping(ranks)}


def first_step(record: Record) -> int | None:
    """The first step that a record says was logged, or None."""
    steps = record.get("steps")
    return whole(steps[0]) if isinstance(steps, list) and len(steps) == 2 else None


def last_step(record: Record) -> int | None:
    """The last step that a record says was logged, or None."""
    steps = record.get("steps")
    return whole(steps[1]) if isinstance(steps, list) and len(steps) == 2 else None


def _restarts(phase1: Record, phase2: Record) -> int | None:
    counts = [whole(phase.get("restarts")) for phase in (phase1, phase2)]
    return None if None in counts else 1 + sum(counts)
