"""The rule of a metric by platform, comparison and basis, from the table in ``tasks.cases.metrics``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tasks.cases.metrics import Exact, MetricSpec, Rule, Shown, Tolerance, metric_named
from tasks.judge.rows import CHECK_EXACT, GOLDEN, RESUME

STEADY_STEPS_NEEDED = 10  # a single step's time can be a third off the median
_SHARED_GPUS = ("gpu1_", "gpu2_")


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The basis of a comparison.

    Attributes:
        check: exact or approximate, for deterministic metrics; ``reason``: why.
        same_processor: both sides ran on the same kind of processor.
        only_the_model: the reason to judge only values of model and schedule; empty: judge all.
        restarted: the actual side was restarted during training.
    """

    check: str
    reason: str
    same_processor: bool = True
    only_the_model: str = ""
    restarted: bool = False


def rule_for(name: str, *, basis: Basis, platform: str | None = None, comparison: str = GOLDEN) -> Rule:
    """The rule of a metric on a platform (None: unknown, the tolerances of a GPU)."""
    metric = metric_named(name)
    rule = _from_table(metric, platform, comparison)
    if metric.kind.same_processor and not basis.same_processor:
        rule = Shown(why="the card was recorded on another processor")
    if basis.only_the_model and metric.kind.on_other_ranks == "shown":
        rule = Shown(why=basis.only_the_model)
    if isinstance(rule, Shown):
        return rule
    if metric.kind.deterministic and basis.check == CHECK_EXACT:
        return Exact()
    if basis.only_the_model and metric.kind.on_other_ranks == "exact":
        rule = Tolerance()
    restarted = comparison == RESUME or basis.restarted
    return dataclasses.replace(rule, one_sided=metric.kind.change is not None, restarted=restarted)


def _from_table(metric: MetricSpec, platform: str | None, comparison: str) -> Tolerance | Shown:
    if comparison == RESUME and metric.resume:
        return metric.resume
    cpu, shared = ((platform or "").startswith(names) for names in ("cpu_", _SHARED_GPUS))
    return (cpu and metric.cpu) or (shared and metric.shared_gpu) or metric.tolerance
