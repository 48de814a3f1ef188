"""The proof that a restart was one: what phase 2 loaded, where it began, and that every rank's state came
back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tasks.judge.strict import CHECK_EQUAL, CHECK_SHOWN, EXACT, MISSING, NOT_JUDGED, REGRESSION, Row
from tasks.judge.tolerances import RESTART
from tasks.util.files import mapping, whole

# What every rank must have recorded at the checkpoint and again after loading it.
STATE = (
    "parameters",
    "master_weights",
    "exp_avg",
    "exp_avg_sq",
    "optimizer_steps",
    "scheduler",
    "rng",
    "consumed_samples",
    "next_batch",
)
# What all ranks record alike, and on every layout of ranks.
COMMON_STATE = (
    "whole_parameters",
    "whole_master_weights",
    "whole_exp_avg",
    "whole_exp_avg_sq",
    "optimizer_steps",
    "scheduler",
    "consumed_samples",
)

# Digests of nothing at all: of no bytes, and the sum over no element of any rank. They prove nothing.
OF_NOTHING = (hashlib.sha256().hexdigest(), "0" * 16)
# Megatron-LM's data iterators cannot be asked for the next batch without taking it: there, the losses tell.
NOT_OF_MEGATRON_LM = frozenset({"next_batch"})


def restart_rows(phase1: Mapping[str, object], phase2: Mapping[str, object]) -> list[Row]:
    """Rows from the records of both phases. What is missing or of another shape fails; nothing is assumed."""
    loaded = loaded_iteration(phase2)
    return _course_rows(phase1, phase2) + state_rows(saved_states(phase1), phase2, loaded, before=phase1)


def layout_rows(phase1: Mapping[str, object], phase2: Mapping[str, object]) -> list[Row]:
    """Of a restart on another layout of ranks: without the state that a rank shares with none of before."""
    loaded = loaded_iteration(phase2)
    before = saved_states(phase1).get(loaded, {}) if loaded is not None else {}
    after = mapping(mapping(phase2.get("state")).get(str(loaded)))
    absent = bool({*processes_of(phase1)} - {*before} or {*processes_of(phase2)} - {*after})
    return _course_rows(phase1, phase2) + [_common_row(part, before, after, absent) for part in COMMON_STATE]


def _course_rows(phase1: Mapping[str, object], phase2: Mapping[str, object]) -> list[Row]:
    loaded = loaded_iteration(phase2)
    return [
        _loaded_row(loaded, sorted(saved_states(phase1)), last_step(phase1)),
        equal_row("first step", None if loaded is None else loaded + 1, first_step(phase2)),
        equal_row("last step", last_step(phase1), last_step(phase2)),
        # One restart is the start of phase 2 itself; any the elastic agent made inside a phase comes on top.
        equal_row("restarts", 1, _restarts(phase1, phase2)),
    ]


def state_rows(
    saved: Mapping[int, Mapping[str, object]],
    after: Mapping[str, object],
    loaded: int | None,
    *,
    before: Mapping[str, object],
) -> list[Row]:
    """A row a part of the state: what every rank recorded when iteration ``loaded`` was saved, and what the
    record ``after`` says that it had after loading. The ranks of both that record and ``before`` count.
    """
    loads = mapping(mapping(after.get("state")).get(str(loaded)))
    saves = saved.get(loaded, {}) if loaded is not None else {}
    wanted = [part for part in STATE if part not in NOT_OF_MEGATRON_LM or not after.get("subject")]
    parts = [*wanted, *sorted({part for rank in saves.values() for part in mapping(rank)} - set(wanted))]
    started = {**processes_of(before), **processes_of(after)}
    return [_state_row(part, saves, loads, started) for part in parts]


def no_restart_row(phase1: Mapping[str, object]) -> Row:
    """The row of a case of one phase that asks for no crash: the elastic agent restarted nothing."""
    return equal_row("restarts", 0, whole(phase1.get("restarts")))


def failed_try_row(failed: Mapping[str, object]) -> Row:
    """A try that ``--retries`` repeated is shown, and judges nothing: only the last one has values."""
    what = f"{failed.get('kind')}: {failed.get('message')}; kept in {failed.get('kept')}"
    return Row(
        comparison=RESTART,
        metric=f"phase {failed.get('phase')}, try {failed.get('attempt')}",
        check=CHECK_SHOWN,
        verdict=NOT_JUDGED,
        passed=True,
        note=f"failed by its surroundings and was tried again: {what}",
    )


def loaded_iteration(phase2: Mapping[str, object]) -> int | None:
    """The iteration that phase 2 says it loaded, or None."""
    return whole(phase2.get("loaded_iteration"))


def _loaded_row(loaded: int | None, saved: list[int], last: int | None) -> Row:
    usable = [iteration for iteration in saved if last is not None and 0 < iteration < last]
    expected = loaded if loaded in usable else usable[-1] if usable else None
    row = equal_row("loaded iteration", expected, loaded)
    if loaded is None:
        return failed(row, MISSING, "nothing was loaded: phase 2 trained again from the start")
    if not usable:
        return failed(row, MISSING, "phase 1 recorded no checkpoint before its last step")
    return row


def equal_row(name: str, expected: int | str | None, actual: int | str | None) -> Row:
    """A row that passes when both are known and equal."""
    known = expected is not None and actual is not None
    equal = known and expected == actual
    return Row(
        comparison=RESTART,
        metric=name,
        check=CHECK_EQUAL,
        golden=expected,
        actual=actual,
        verdict=EXACT if equal else REGRESSION if known else MISSING,
        passed=equal,
        note="" if known else "not recorded",
    )


def _restored(part: str, steps: str) -> Row:
    """The row of a part of the state that came back."""
    return Row(
        comparison=RESTART,
        metric=f"state: {part.replace('_', ' ')}",
        check=CHECK_EQUAL,
        steps=steps,
        verdict=EXACT,
        passed=True,
    )


def _shown(row: Row, saved: str, loaded: str) -> Row:
    """The row with the beginnings of both digests."""
    return Row(**{**row.__dict__, "golden": saved[:12], "actual": loaded[:12]})


def processes_of(record: Mapping[str, object]) -> Mapping[str, object]:
    """Process ids by rank, of an attempt or of the last attempt of a phase: the ranks that took part."""
    attempts = record.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else record
    return mapping(mapping(last).get("processes"))


def _state_row(
    part: str, before: Mapping[str, object], after: Mapping[str, object], started: Mapping[str, object]
) -> Row:
    ranks = sorted({*before, *after, *started}, key=lambda rank: (len(rank), rank))
    pairs = {rank: (_digest(before, rank, part), _digest(after, rank, part)) for rank in ranks}
    absent = [rank for rank, pair in pairs.items() if None in pair]
    parted = [rank for rank, (saved, loaded) in pairs.items() if rank not in absent and saved != loaded]
    row = _restored(part, f"{len(ranks)} ranks")
    if not ranks:
        return failed(row, MISSING, "no rank recorded it")
    if parted:
        saved, loaded = pairs[parted[0]]
        return failed(_shown(row, saved, loaded), REGRESSION, f"rank {_listed(parted)}: not what was saved")
    if absent:
        return failed(row, MISSING, f"rank {_listed(absent)}: not recorded on both sides")
    return row


def _common_row(part: str, before: Mapping[str, object], after: Mapping[str, object], absent: bool) -> Row:
    """One digest on each side, the same on every rank there; ``absent``: a rank recorded nothing at all."""
    row = _restored(part, f"{len(before)} to {len(after)} ranks")
    sides = [{_digest(side, rank, part) for rank in side} for side in (before, after)]
    if absent or None in sides[0] | sides[1] or not all(sides):
        return failed(row, MISSING, "not recorded by every rank on both sides")
    if any(len(side) > 1 for side in sides):
        return failed(row, REGRESSION, "not the same on all ranks")
    (saved,), (loaded,) = sides
    if saved != loaded:
        return failed(_shown(row, saved, loaded), REGRESSION, "not what was saved")
    return row


def failed(row: Row, verdict: str, note: str) -> Row:
    """The row, failed."""
    return Row(**{**row.__dict__, "verdict": verdict, "passed": False, "note": note})


def _listed(ranks: list[str]) -> str:
    return ", ".join(ranks[:8]) + (", …" if len(ranks) > 8 else "")


def _digest(state: Mapping[str, object], rank: str, part: str) -> str | None:
    value = mapping(state.get(rank)).get(part)
    return value if isinstance(value, str) and value and value not in OF_NOTHING else None


def saved_states(record: Mapping[str, object]) -> dict[int, Mapping[str, object]]:
    """The ranks' digests in a phase's record, by iteration."""
    state = mapping(record.get("state"))
    return {int(key): mapping(ranks) for key, ranks in state.items() if key.isdecimal() and mapping(ranks)}


def first_step(record: Mapping[str, object]) -> int | None:
    """The first step that a record says was logged, or None."""
    steps = record.get("steps")
    return whole(steps[0]) if isinstance(steps, list) and len(steps) == 2 else None


def last_step(record: Mapping[str, object]) -> int | None:
    """The last step that a record says was logged, or None."""
    steps = record.get("steps")
    return whole(steps[1]) if isinstance(steps, list) and len(steps) == 2 else None


def _restarts(phase1: Mapping[str, object], phase2: Mapping[str, object]) -> int | None:
    counts = [whole(phase.get("restarts")) for phase in (phase1, phase2)]
    return None if None in counts else 1 + sum(counts)
