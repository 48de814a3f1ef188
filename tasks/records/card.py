"""A card: the values of every metric at every step, and its text in Megatron-LM's format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

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
        start_step, end_step, step_interval: as in the card's header; they need not agree with ``steps``.
        full_precision: values are kept as measured, not rounded to 5 decimals.
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
    """The contradiction between a metric's header and its values, or None. Megatron-LM never checks this; the
    strict policy does.
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


def _number_or_text(value: float | str) -> float | str:
    return value if isinstance(value, str) or math.isfinite(value) else str(value)
