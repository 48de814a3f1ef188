"""Comparison of two series of one metric: the steps that differ, by how much, and by how many float32 ulp."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tasks.records.card import Metric


@dataclass(frozen=True, kw_only=True, eq=False)
class Differences:
    """Two metrics at their common steps. ``equal``: bool (n,); ``relative``: float64 (n,), +inf where either
    value is not finite; ``ulp``: int64 (n,), of finite pairs only, -1 elsewhere.
    """

    golden: Metric
    actual: Metric
    equal: np.ndarray
    relative: np.ndarray
    ulp: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        return self.golden.steps

    def first(self) -> int | None:
        """Position of the first step that differs."""
        return None if self.equal.all() else int(np.argmin(self.equal))

    def worst(self, mask: np.ndarray | None = None) -> int | None:
        """Position of the largest relative difference, by absolute difference among those without bound.

        ``mask``: bool (n,), the steps to consider (default: all of them).
        """
        if self.equal.all():
            return None
        relative = self.relative if mask is None else np.where(mask, self.relative, -1.0)
        unbounded = np.isinf(relative)
        if not unbounded.any():
            return int(np.argmax(relative))
        distance = np.abs(_finite(self.actual.values) - _finite(self.golden.values))
        lost = ~(np.isfinite(self.actual.values) & np.isfinite(self.golden.values))
        return int(np.argmax(np.where(unbounded, np.where(lost, np.inf, distance), -1.0)))

    def shown(self, mask: np.ndarray | None = None) -> dict[str, object]:
        """The fields of a row that describe the differences; the worst one is taken from ``mask``."""
        if not self.steps.size:
            return {}
        first, worst = self.first(), self.worst(mask)
        place = self.steps.size - 1 if worst is None else worst
        golden, actual = self.golden.shown(place), self.actual.shown(place)
        numbers = isinstance(golden, float) and isinstance(actual, float)
        largest = int(self.ulp.max())
        return {
            "first_step": None if first is None else int(self.steps[first]),
            "worst_step": None if worst is None else int(self.steps[worst]),
            "golden": golden,
            "actual": actual,
            "abs": abs(actual - golden) if numbers else None,
            "rel": float(self.relative[place]) if np.isfinite(self.relative[place]) else None,
            "ulp": largest if largest >= 0 else None,
        }


def compare(golden: Metric, actual: Metric) -> Differences:
    """Both metrics at their common steps. A string or a non-finite value equals nothing, not even itself."""
    if not np.array_equal(golden.steps, actual.steps):
        _, in_golden, in_actual = np.intersect1d(
            golden.steps, actual.steps, assume_unique=True, return_indices=True
        )
        golden, actual = _at(golden, in_golden), _at(actual, in_actual)
    finite = np.isfinite(golden.values) & np.isfinite(actual.values)
    equal = finite & (golden.values == actual.values)
    relative = relative_difference(golden.values, actual.values)
    ulp = np.where(finite, ulp_distance(_finite(golden.values), _finite(actual.values)), -1)
    return Differences(golden=golden, actual=actual, equal=equal, relative=relative, ulp=ulp)


def relative_difference(golden: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """|actual - golden| / |golden|, float64 (n,); 0 for 0/0, +inf if golden is 0 or one is not finite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.abs(actual - golden) / np.abs(golden)
    relative[~(np.isfinite(golden) & np.isfinite(actual))] = np.inf
    relative[golden == actual] = 0.0
    relative[~np.isfinite(golden)] = np.inf
    return relative


def ulp_distance(golden: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Distance of each pair in float32 values, int64 (n,): 0 if equal, 1 for neighbours; -0 equals +0."""
    return np.abs(_ordinal(golden) - _ordinal(actual))


def step_text(steps: np.ndarray) -> str:
    """Steps for readers: "1-100", "1-100 (21 steps)"."""
    if steps.size == 0:
        return "none"
    first, last = int(steps[0]), int(steps[-1])
    span = str(first) if first == last else f"{first}-{last}"
    return span if steps.size == last - first + 1 else f"{span} ({steps.size} steps)"


def _at(metric: Metric, positions: np.ndarray) -> Metric:
    return dataclasses.replace(metric, steps=metric.steps[positions], values=metric.values[positions])


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def _ordinal(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + 2**31), bits)
