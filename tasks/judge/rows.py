"""A row of the verdict: comparison, metric, numbers, and the reason for the outcome."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

GOLDEN, RESUME, RESTART = "golden", "resume", "restart"  # what is compared
EXACT, DRIFT, REGRESSION, MISSING = "exact", "drift", "regression", "missing"
IMPROVEMENT, NOT_JUDGED = "improvement", "not judged"
CHECK_EXACT, CHECK_APPROXIMATE, CHECK_EQUAL, CHECK_SHOWN = "exact", "approximate", "equal", "shown"


@enum.unique
class Reason(enum.Enum):
    """The reason for a row's verdict; the value is its sentence, with names of the row's ``details``."""

    DIFFERS = ""  # by more than the tolerance, where there is one; the numbers of the row say it all
    LESS = "less than the golden card: record a new card to keep it"
    METRIC_MISSING = "{side} no such metric"
    NO_STEP = "{side} no step of it to compare"
    ONLY_FIRST_STEP = "no step to compare; without step {step}: {why}"
    STEP_MISSING = "step {step}{more} missing in the actual values"
    EXTRA_STEP = "step {step}{more} missing in the golden values"
    STEP_NOT_LOGGED = "phase {phase} logged no step {step}{more}"
    NO_STEADY_STEP = "no steady steps to compare"
    NOT_FINITE = "{side} value at step {step} is {value}"
    MEDIAN_NOT_FINITE = "actual values of steps {steps} are not all numbers"
    NOT_MEASURED = "{side} value is {value} at step {step}: nothing was measured"
    STAYS_AT_0 = "actual value stays at 0: nothing was measured"
    # Policy megatron.
    NO_CHECK = "Megatron-LM has no check for it"
    NO_USABLE_VALUE = "a side has no usable value of it"
    COUNTS_AS_INFINITY = "{count} steps of the card, from {step} on, are missing and count as infinity"
    # Cards, files and records of a run.
    NO_CARD = "no card to compare with"
    NO_PROVENANCE = "the card's .provenance.json is gone: check it out again, or record a new card"
    OTHER_CONFIGURATION = "the card was recorded for another {what}"
    UNKNOWN_CONFIGURATION = "the card does not say for which {what} it was recorded"
    OTHER_ENVIRONMENT = "{changes}"
    NO_PHASE_1 = "no phase1.json: nothing says how phase 1 went"
    NO_PHASE_2 = "the restart left no {files}; run tasks.resume"
    NO_FINGERPRINT = "not recorded; run tasks.resume again"
    NOT_RECORDED = "not recorded"
    TRIED_AGAIN = "an infrastructure failure, tried again: {kind}: {message}; kept in {kept}"
    # The restart, its state, and kills.
    NOTHING_LOADED = "nothing was loaded: {what} trained again from the start"
    NOTHING_RESUMED = "phase 2 loaded no checkpoint, so it resumed nothing"
    NOT_FROM_KEPT = "phase 1 did not go on from the kept checkpoint"
    NO_CHECKPOINT = "phase 1 recorded no checkpoint before its last step"
    NO_STATE = "no rank recorded it"
    STATE_NOT_RECORDED = "rank {ranks}: not recorded on both sides"
    STATE_DIFFERS = "rank {ranks}: not what was saved"
    WHOLE_NOT_RECORDED = "not recorded by every rank on both sides"
    WHOLE_OF_RANKS_DIFFERS = "not the same on all ranks"
    WHOLE_DIFFERS = "not what was saved"
    NO_KILL_IN_CASE = "the case asks for no kill: nothing was tested"
    NOTHING_KILLED = "nothing was killed"
    KILLED_NO_RANK = "what was killed was no rank of this attempt"
    NOT_ENDED = "a rank did not end when it was killed"
    KILLED_EARLY = "the killed attempt logged steps up to {last}"
    NOTHING_SAVED = "there was no complete checkpoint when the rank was killed"
    NO_RESTART = "nothing was trained twice: there was no restart"
    ATTEMPT_WITHOUT_VALUES = "of attempts {first} and {second} not both have values, or nothing was loaded"
    NO_COMMON_STEP = "attempts {first} and {second} have no step in common"
    VALUE_NOT_LOGGED = "attempt {first} logged no {value}, which attempt {second} trained again"
    NOTHING_TRAINED_TWICE = "attempt {first} has no value of the steps that attempt {second} trained again"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the verdict.

    Attributes:
        median_of: the first and the last step of a median; None: no median is compared.
        golden, actual, abs, rel: of the worst step; ``rel`` is relative to the golden value.
        ulp: units in the last place of float32, the largest of all steps.
        reason, details: the reason for the verdict, and the values in its sentence.
        remarks: further facts on the comparison.
    """

    comparison: str
    metric: str
    check: str = CHECK_EQUAL
    steps: str = ""
    median_of: tuple[int, int] | None = None
    first_step: int | None = None
    worst_step: int | None = None
    golden: float | str | None = None
    actual: float | str | None = None
    abs: float | None = None
    rel: float | None = None
    ulp: int | None = None
    tolerance: float | str | None = None
    verdict: str
    reason: Reason | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        return self.verdict != NOT_JUDGED

    @property
    def passed(self) -> bool:
        return self.verdict not in (REGRESSION, MISSING)

    @property
    def note(self) -> str:
        """The reason as a sentence, then the remarks."""
        sentence = self.reason.value.format(**self.details) if self.reason else ""
        return "; ".join(filter(None, (sentence, *self.remarks)))

    def because(self, verdict: str, reason: Reason | None = None, **details: object) -> Row:
        """This row with a verdict and the reason for it."""
        return dataclasses.replace(self, verdict=verdict, reason=reason, details=details)

    @classmethod
    def missing(
        cls, comparison: str, metric: str, reason: Reason, *, check: str = CHECK_EQUAL, **details: object
    ) -> Row:
        """The row that fails because something is not there."""
        row = cls(comparison=comparison, metric=metric, check=check, verdict=MISSING)
        return row.because(MISSING, reason, **details)

    @classmethod
    def shown(cls, comparison: str, metric: str, reason: Reason, **details: object) -> Row:
        """The row that judges nothing."""
        row = cls(comparison=comparison, metric=metric, check=CHECK_SHOWN, verdict=NOT_JUDGED)
        return row.because(NOT_JUDGED, reason, **details)


def and_more(count: int) -> str:
    """The text for the remaining steps after the first of ``count``."""
    return f" and {count - 1} more" if count > 1 else ""
