"""Golden cards: read, checked, written, found; and where a card came from.

A card is Megatron-LM's own format: ``{metric: {"start_step", "end_step", "step_interval", "values": {step:
value}}}``, with an optional ``"value_precision": "full"`` for a metric whose values were not rounded to 5
decimals.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tasks.exits import CannotRun, UsageError

DECIMALS = 5  # to which Megatron-LM rounds what it reads from TensorBoard
FULL_PRECISION = "full"


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """One metric of a card.

    Attributes:
        steps: int64, strictly increasing, shape (n,), all at least 0.
        values: float64, shape (n,), in the metric's own unit. A value that the card gives as a string
            ("nan") is +inf here, as Megatron-LM takes it; its text is in ``texts``. A real NaN is NaN. No
            other infinity occurs.
        texts: step to string, for the values that are strings.
        start_step, end_step, step_interval: what the card's header says; it need not agree with ``steps``.
        full_precision: whether values are kept as measured, not rounded to 5 decimals.
    """

    steps: np.ndarray
    values: np.ndarray
    texts: dict[int, str] = field(default_factory=dict)
    start_step: int
    end_step: int
    step_interval: int
    full_precision: bool = False

    def shown(self, index: int) -> float | str:
        """The value at a position as the card has it: a number, or its string."""
        return self.texts.get(int(self.steps[index]), float(self.values[index]))

    def between(self, first: int, last: int) -> Metric:
        """The part with ``first`` <= step <= ``last``; the header follows."""
        kept = (self.steps >= first) & (self.steps <= last)
        steps = self.steps[kept]
        return replace(
            self,
            steps=steps,
            values=self.values[kept],
            texts={step: text for step, text in self.texts.items() if first <= step <= last},
            start_step=int(steps[0]) if steps.size else first,
            end_step=int(steps[-1]) if steps.size else last,
        )

    def rounded(self) -> Metric:
        """Values to 5 decimals, the way Megatron-LM's extraction rounds them (Python's ``round``, not
        NumPy's).
        """
        values = np.array([round(value, DECIMALS) for value in self.values.tolist()], dtype=np.float64)
        return replace(self, values=values, full_precision=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """Metrics by name, and the file they came from (None: not from a file)."""

    metrics: dict[str, Metric]
    path: Path | None = None

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "(not from a file)"

    @property
    def last_step(self) -> int:
        """The last one of any metric; 0 where there is none."""
        return max(
            (int(metric.steps[-1]) for metric in self.metrics.values() if metric.steps.size), default=0
        )

    def between(self, first: int, last: int) -> Card:
        return replace(
            self, metrics={name: metric.between(first, last) for name, metric in self.metrics.items()}
        )

    def rounded(self) -> Card:
        return replace(self, metrics={name: metric.rounded() for name, metric in self.metrics.items()})


def metric_from(steps: Iterable[int], values: Iterable[float], *, full_precision: bool = True) -> Metric:
    """A metric from numbers in order of step. Infinities become the strings "inf" and "-inf"."""
    step_array = np.fromiter(steps, dtype=np.int64)
    value_array = np.fromiter(values, dtype=np.float64)
    if step_array.size == 0 or step_array.size != value_array.size:
        raise ValueError(f"{step_array.size} steps and {value_array.size} values: need as many, at least one")
    if (np.diff(step_array) <= 0).any():
        raise ValueError("steps must increase")
    infinite = np.isinf(value_array)
    texts = {
        int(step): str(value) for step, value in zip(step_array[infinite], value_array[infinite], strict=True)
    }
    return Metric(
        steps=step_array,
        values=np.where(infinite, np.inf, value_array),
        texts=texts,
        start_step=int(step_array[0]),
        end_step=int(step_array[-1]),
        step_interval=interval_of(step_array),
        full_precision=full_precision,
    )


def interval_of(steps: np.ndarray) -> int:
    """The cadence of logging: the greatest common divisor of the gaps, without the special first step (1, 5,
    10, …).
    """
    regular = steps[1:] if steps.size > 2 else steps
    return int(np.gcd.reduce(np.diff(regular))) if regular.size > 1 else 1


def header_fault(metric: Metric) -> str | None:
    """What the header promises and the values do not keep, or None. Megatron-LM never looks; the strict
    policy does.
    """
    if metric.steps.size == 0:
        return "has no values"
    first, last = int(metric.steps[0]), int(metric.steps[-1])
    if (first, last) != (metric.start_step, metric.end_step):
        return f"says steps {metric.start_step} to {metric.end_step}, but has values for {first} to {last}"
    interval = interval_of(metric.steps)
    # A card of ours; Megatron-LM's are not so exact.
    if metric.full_precision and metric.step_interval != interval:
        return f"says a value every {metric.step_interval} steps, but has one every {interval}"
    hole = first_hole(metric)
    return None if hole is None else f"has no value for step {hole} between steps {first} and {last}"


def first_hole(metric: Metric) -> int | None:
    """The first step that is missing from the metric's own cadence, or None."""
    interval = interval_of(metric.steps)
    regular = metric.steps[1:] if metric.steps.size > 2 else metric.steps
    gaps = np.flatnonzero(np.diff(regular) > interval)
    if gaps.size:
        return int(regular[gaps[0]]) + interval
    if metric.steps.size > 2 and metric.steps[1] - metric.steps[0] > interval:
        return int(metric.steps[1]) - interval
    return None


def read_card(path: str | Path) -> Card:
    """Read a card of any origin.

    Raises:
        UsageError: the file is no card; the message names file and place.
    """
    from tasks.card_reader import read

    return read(Path(path))


def card_text(card: Card) -> str:
    """The card as JSON with ``repr`` precision; a value that is not finite is a string, as in Megatron-LM's
    cards.
    """
    document = {}
    for name, metric in card.metrics.items():
        values = {
            str(step): _number_or_text(metric.texts.get(step, value))
            for step, value in zip(metric.steps.tolist(), metric.values.tolist(), strict=True)
        }
        document[name] = {
            "start_step": metric.start_step,
            "end_step": metric.end_step,
            "step_interval": metric.step_interval,
            "values": values,
        }
        if metric.full_precision:
            document[name]["value_precision"] = FULL_PRECISION
    return json.dumps(document, indent=4, allow_nan=False) + "\n"


def write_card(path: str | Path, card: Card) -> None:
    """Write a card; the file is the old one or the whole new one, never a part."""
    write_atomically(Path(path), card_text(card))


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write beside the target and rename over it. Makes the folder when there is none.

    Raises:
        UsageError: the file cannot be written here.
        CannotRun: the disk is full.
    """
    content = text.encode() if isinstance(text, str) else text
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        kind = CannotRun if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(f"{path}: cannot be written ({error.strerror})") from error


class NoGoldenCard(UsageError):
    """There is no card to compare with."""


@dataclass(frozen=True)
class FoundCard:
    """Where the card for an environment and platform lies; ``generic``: held to approximate checks only."""

    path: Path
    generic: bool


def card_path(root: Path, case_name: str, environment: str, platform: str) -> Path:
    """``<root>/goldens/<case>/golden_values_<environment>_<platform>.json``"""
    return root / "goldens" / case_name / f"golden_values_{environment}_{platform}.json"


def find_card(
    root: Path, case_name: str, environment: str, platform: str, folder: Path | None = None
) -> FoundCard:
    """The card of this environment and platform, else the generic one of the environment.

    ``folder``: where they lie, when that is not ``<root>/goldens/<case>``.

    Raises:
        UsageError: there is neither; says how to record one.
    """
    own = card_path(root, case_name, environment, platform)
    own = folder / own.name if folder else own
    if os.path.lexists(own):  # one that cannot be read is told, and no looser one taken
        return FoundCard(own, generic=False)
    generic = own.with_name(f"golden_values_{environment}.json")
    if generic.exists():
        return FoundCard(generic, generic=True)
    raise NoGoldenCard(
        f"no golden card of {case_name} for {environment} on {platform} ({own.name}); "
        f'record one: nox -s record -- {case_name} --reason "..."'
    )


def provenance_path(card_file: Path) -> Path:
    return card_file.with_name(f"{card_file.stem}.provenance.json")


def read_provenance(card_file: Path) -> dict[str, object] | None:
    """The side file of a card, or None when there is none.

    Raises:
        UsageError: the side file is no JSON object.
    """
    path = provenance_path(card_file)
    return read_json_object(path) if path.exists() else None


def write_provenance(card_file: Path, provenance: Mapping[str, object]) -> None:
    """Write the side file of a card that is already written; its digest is added, so that an edit shows."""
    content = {**provenance, "card_sha256": file_sha256(card_file)}
    write_atomically(provenance_path(card_file), json.dumps(content, indent=4, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json_object(path: Path) -> dict[str, object]:
    """A small JSON file of ours (provenance, phase record, case record).

    Raises:
        UsageError: unreadable, not UTF-8, not JSON, not an object.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a JSON object, is {type(content).__name__}")
    return content


def read_events(tensorboard_dir: str | Path) -> Card:
    """A run's actual values from its TensorBoard events; see ``tasks.events``."""
    from tasks.events import read_events as read

    return read(Path(tensorboard_dir))


def _number_or_text(value: float | str) -> float | str:
    return value if isinstance(value, str) or math.isfinite(value) else str(value)
