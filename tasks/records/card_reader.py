"""The reader of golden cards: strict about what cannot be compared, quick on a million steps.

Values are turned into arrays while the JSON is parsed, an object at a time, so that a card of several metrics
never lies in memory as Python objects as a whole. What is wrong is remembered with its step and raised with
its metric.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.records.card import FULL_PRECISION, Card, Metric
from tasks.util.exits import UsageError

LIMIT_BYTES = 200_000_000  # a million steps of five metrics, indented, are 170 MB
LIMIT_TEXT = 40  # of a value such as "nan"
LIMIT_STEPS = 1_000_000  # of one metric
# A card holds no list and two objects a metric. Other JSON of this size is refused before it is parsed:
# as Python objects it would take twenty times its size in memory.
LARGE_BYTES = 10_000_000
MOST_OBJECTS = 10_000
LONGEST_STEP = 15  # digits; more would leave the integers that a float64 holds
_PLAIN_STEP = re.compile(rf"(?:0|[1-9][0-9]{{0,{LONGEST_STEP - 1}}})\Z").match
HEADER = ("start_step", "end_step", "step_interval")
KEYS = (*HEADER, "values", "value_precision")


@dataclass(frozen=True, eq=False)
class _Values:
    steps: np.ndarray
    values: np.ndarray
    texts: dict[int, str]


@dataclass(frozen=True)
class _Fault:
    what: str


def read(path: Path) -> Card:
    """Read and check a card.

    Raises:
        UsageError: one line that names the file and the place.
    """
    text = _text(path)
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        whole = "empty" if not text.strip() else "not JSON, or cut off"
        raise UsageError(
            f"{path}: line {error.lineno}, column {error.colno}: {whole} ({error.msg})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a golden card ({error})") from error
    del text
    if isinstance(document, _Fault):
        raise UsageError(f"{path}: {document.what}")
    if isinstance(document, _Values) and document.steps.size:
        raise UsageError(
            f"{path}: step {document.steps[0]} where a metric's name should be: not a golden card"
        )
    if not isinstance(document, dict):
        if isinstance(document, _Values):
            raise UsageError(f"{path}: holds no metric")
        raise UsageError(f"{path}: must be a JSON object of metrics, is {_kind(document)}")
    return Card(metrics={name: _metric(path, name, entry) for name, entry in document.items()}, path=path)


def _text(path: Path) -> str:
    try:
        before = os.stat(path)
        if not stat.S_ISREG(before.st_mode):
            what = "a directory" if stat.S_ISDIR(before.st_mode) else "not a regular file"
            raise UsageError(f"{path}: is {what}; a golden card is a JSON file")
        if before.st_size >= LIMIT_BYTES:
            raise UsageError(f"{path}: {before.st_size} bytes; a golden card has fewer than {LIMIT_BYTES}")
        with open(path, "rb") as file:
            content = file.read(LIMIT_BYTES)
            opened = os.fstat(file.fileno())
        after = os.stat(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    if not _identity(before) == _identity(opened) == _identity(after):
        raise UsageError(f"{path}: changed while it was read; wait until its writer is done and try again")
    if len(content) > LARGE_BYTES:
        _refuse_large_nonsense(path, content)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line}: not UTF-8 (byte {error.start})") from error


def _refuse_large_nonsense(path: Path, content: bytes) -> None:
    opening = content.find(b"[")
    if opening >= 0:
        line = content.count(b"\n", 0, opening) + 1
        raise UsageError(f"{path}: line {line}: a list; {len(content)} bytes of JSON, but not a golden card")
    if content.count(b"{") > MOST_OBJECTS:
        raise UsageError(f"{path}: more than {MOST_OBJECTS} objects: not a golden card")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _object(pairs: list[tuple[str, object]]) -> object:
    """Called by the JSON parser for every object, innermost first."""
    if not pairs:
        return _Values(np.empty(0, np.int64), np.empty(0, np.float64), {})
    if pairs[0][0][:1].isdigit() or pairs[0][0][:1] in ("-", "+"):
        return _values(pairs)
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        return _Fault(f"{twice!r} is there twice")
    return content


def _values(pairs: list[tuple[str, object]]) -> _Values | _Fault:
    if len(pairs) > LIMIT_STEPS:
        return _Fault(f"{len(pairs)} steps; a golden card has at most {LIMIT_STEPS}")
    keys, numbers = [key for key, _ in pairs], [value for _, value in pairs]
    steps = _steps(keys)
    if steps is None:
        key = next(key for key in keys if not _PLAIN_STEP(key))
        return _Fault(f"step {key!r} is not a whole number from 0 up, written plainly")
    not_increasing = np.flatnonzero(np.diff(steps) <= 0)
    if not_increasing.size:
        return _Fault(_order_fault(steps, int(not_increasing[0]) + 1))
    texts = {}
    if not set(map(type, numbers)) <= {int, float}:
        for index, value in enumerate(numbers):
            if isinstance(value, str) and len(value) > LIMIT_TEXT:
                return _Fault(
                    f"step {keys[index]}: a string of {len(value)} characters where a number should be"
                )
            if isinstance(value, str):
                texts[int(steps[index])] = value
                numbers[index] = np.inf
            elif isinstance(value, bool) or not isinstance(value, int | float):
                return _Fault(f"step {keys[index]}: {_kind(value)} where a number should be")
    try:
        values = np.fromiter(numbers, dtype=np.float64, count=len(numbers))
    except OverflowError:
        return _Fault("a whole number too large for a float")
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size > len(texts):
        first = next(int(steps[index]) for index in infinite if int(steps[index]) not in texts)
        return _Fault(f"step {first}: an infinite number")
    return _Values(steps, values, texts)


def _steps(keys: list[str]) -> np.ndarray | None:
    """The keys as int64, or None when one is not plain. Checked all at once, for speed. int() alone would
    also take "+1", " 1", "1_0", "01" and digits of other scripts.
    """
    digits = "".join(keys)
    if not (digits.isascii() and digits.isdigit()) or not all(keys) or max(map(len, keys)) > LONGEST_STEP:
        return None
    steps = np.fromiter(map(int, keys), dtype=np.int64, count=len(keys))
    plain = steps.size + sum(int((steps >= 10**power).sum()) for power in range(1, LONGEST_STEP))
    return steps if plain == len(digits) else None


def _order_fault(steps: np.ndarray, index: int) -> str:
    step = int(steps[index])
    if (steps[:index] == step).any():
        return f"step {step} is there twice"
    return f"step {step} comes after step {int(steps[index - 1])}: steps must increase"


def _metric(path: Path, name: str, entry: object) -> Metric:
    place = f"{path}: {name!r}"
    if isinstance(entry, _Fault):
        raise UsageError(f"{place}: {entry.what}")
    if not isinstance(entry, dict):
        raise UsageError(f"{place}: must be an object with start_step, end_step, step_interval, values")
    if unknown := [key for key in entry if key not in KEYS]:
        raise UsageError(f"{place}: unknown key {unknown[0][:40]!r}; known: {', '.join(KEYS)}")
    header = {}
    for key in HEADER:
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**LONGEST_STEP:
            shown = _kind(value) if key in entry else "missing"
            raise UsageError(f"{place}: {key} must be a whole number from 0 up, is {shown}")
        header[key] = value
    values = entry.get("values")
    if isinstance(values, _Fault):
        raise UsageError(f"{place}: {values.what}")
    if isinstance(values, dict):
        raise UsageError(
            f"{place}: step {next(iter(values))!r} is not a whole number from 0 up, written plainly"
        )
    if not isinstance(values, _Values):
        raise UsageError(f"{place}: values must be an object of steps, is {_kind(values)}")
    precision = entry.get("value_precision")
    if "value_precision" in entry and precision != FULL_PRECISION:
        raise UsageError(f'{place}: value_precision must be "full" or left out, is {_kind(precision)}')
    return Metric(
        steps=values.steps,
        values=values.values,
        texts=values.texts,
        full_precision=precision == FULL_PRECISION,
        **header,
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value:.20g}" if isinstance(value, float) else "a whole number"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, list):
        return "a list"
    return "an object"
