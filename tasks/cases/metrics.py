"""The metrics there are, and how often each is logged."""

from __future__ import annotations

from collections.abc import Mapping

METRICS = (
    "lm loss",
    "num-zeros",
    "grad-norm",
    "learning-rate",
    "decoupled-learning-rate",
    "params-norm",
    "mem-allocated-bytes",
    "mem-max-allocated-bytes",
    "mem-growth-bytes",
    "iteration-time",
    "relative-forward-time",
    "relative-backward-time",
    "relative-step-time",
    "overlap-grad-buckets",
    "overlap-param-gathers",
    "overlap-hidden-time",
    "overlap-exposed-time",
)


# Flags of Megatron-LM's loop and their defaults, by metric: how often it is logged. Ours logs every step.
INTERVALS = {"iteration-time": ("--log-interval", 100)}


INTERVAL = ("--tensorboard-log-interval", 1)


def interval(metric: str, model_args: Mapping[str, object], *, subject: str) -> int:
    """At each how many steps a metric is logged by the program under test (``subject``; empty: ours)."""
    flag, default = INTERVALS.get(metric, INTERVAL)
    return int(model_args.get(flag) or default) if subject else 1
