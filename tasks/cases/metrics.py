"""The table of metrics: kind, tolerances and source of each.

Tolerances of lm loss, num-zeros, iteration-time and allocated memory are Megatron-LM's, and its policy reads
them from here. Source of the others: docs/faults.md, docs/speed.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WARM_UP_STEPS = 5  # buffers and caches are allocated in these
SUMS_EVERY = 10  # steps between logged sums over ranks; sums not yet logged are lost with a rank


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Equal to the last bit at every step."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference that passes, of each step or of the median.

    Attributes:
        relative: fraction of the golden value.
        absolute: in the metric's unit, added to ``relative``.
        one_sided: only more (slower, bigger) fails; less by more than the tolerance is an improvement.
        restarted: less is no improvement, and no growth no error: a restart begins the measurement again.
    """

    relative: float = 0.0
    absolute: float = 0.0
    one_sided: bool = False
    restarted: bool = False


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Values are shown and always pass; ``why`` is the reason."""

    why: str


Rule = Exact | Tolerance | Shown


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Facts that all metrics of a kind share.

    Attributes:
        deterministic: equal to the last bit when the run is deterministic and the fingerprints agree.
        on_other_ranks: after the layout of ranks changed: judged as before, exact, or only shown.
        median: the median over the steady steps is compared, not every step.
        same_processor: judged only against a card of the same processor model.
        positive: a value of 0 or less was not measured.
        grows: not measured when it stays at 0 after the warm-up while the golden value does not.
        change: words for more, for less, and for the subject; a metric that has them is one-sided.
        unit: for the axis of a plot.
    """

    deterministic: bool = False
    on_other_ranks: Literal["judged", "exact", "shown"] = "shown"
    median: bool = False
    same_processor: bool = False
    positive: bool = False
    grows: bool = False
    change: tuple[str, str, str] | None = None
    unit: str = ""


_BIGGER, _SLOWER = ("bigger", "smaller", "memory"), ("slower", "faster", "performance")
MODEL = Kind(deterministic=True, on_other_ranks="judged")
SCHEDULE = Kind(deterministic=True, on_other_ranks="exact")
COUNT = Kind(deterministic=True)
MEMORY = Kind(positive=True, change=_BIGGER, unit="B")
GROWTH = Kind(grows=True, change=_BIGGER, unit="B")
TIME = Kind(median=True, positive=True, change=_SLOWER)
RELATIVE_TIME = Kind(median=True, positive=True, same_processor=True, change=_SLOWER)
COMMUNICATION = Kind()


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A metric's definition.

    Attributes:
        name: in events, case files and cards.
        tolerance: on GPUs with one rank each, and on an unknown platform.
        cpu, shared_gpu: tolerances there, if different.
        resume: tolerance of phase 2 compared with phase 1, on every platform, if different.
        first_step_apart: the reason why the first step after a restart is not compared, if it is not.
        summed: a sum over ranks, logged every ``SUMS_EVERY`` steps.
        ours: only our own trainer logs it.
        interval: flag of Megatron-LM's loop for the logging interval, and its default.
        from_step: the first step of a phase at which Megatron-LM's loop always logs it.
        part: the timed part, for the explanation.
    """

    name: str
    kind: Kind
    tolerance: Tolerance | Shown
    cpu: Tolerance | Shown | None = None
    shared_gpu: Tolerance | Shown | None = None
    resume: Tolerance | Shown | None = None
    first_step_apart: str = ""
    summed: bool = False
    ours: bool = False
    interval: tuple[str, int] = ("--tensorboard-log-interval", 1)
    from_step: int = 1
    part: str = ""


LM_LOSS = MetricSpec(name="lm loss", kind=MODEL, tolerance=Tolerance(relative=0.05))
NUM_ZEROS = MetricSpec(name="num-zeros", kind=MODEL, tolerance=Tolerance(relative=0.20))
GRAD_NORM = MetricSpec(name="grad-norm", kind=MODEL, tolerance=Tolerance(relative=0.20))
LEARNING_RATE = MetricSpec(name="learning-rate", kind=SCHEDULE, tolerance=Tolerance(relative=1e-6))
DECOUPLED_LEARNING_RATE = MetricSpec(
    name="decoupled-learning-rate", kind=SCHEDULE, tolerance=Tolerance(relative=1e-6)
)
PARAMS_NORM = MetricSpec(name="params-norm", kind=MODEL, tolerance=Tolerance(relative=0.01), summed=True)
# On a CPU: resident memory beyond what the process had after its imports. A restart has up to 4 MiB more.
ALLOCATED = MetricSpec(
    name="mem-allocated-bytes",
    kind=MEMORY,
    tolerance=Tolerance(relative=0.05),
    cpu=Tolerance(relative=0.10, absolute=8 * 2**20),
)
MAX_ALLOCATED = dataclasses.replace(ALLOCATED, name="mem-max-allocated-bytes")
# After a fully reshardable save, ranks that share a GPU grew by 221 and 249 MiB in two identical runs.
MEMORY_GROWTH = MetricSpec(
    name="mem-growth-bytes",
    kind=GROWTH,
    tolerance=Tolerance(absolute=4 * 2**20),
    shared_gpu=Tolerance(relative=0.20, absolute=4 * 2**20),
    summed=True,
    ours=True,
)
# Ranks take turns on a shared GPU, at the host processor's pace: medians of identical runs on three hosts
# were 0.174 to 0.256 s. Without MPS a step takes 1.7 s.
ITERATION_TIME = MetricSpec(
    name="iteration-time",
    kind=TIME,
    tolerance=Tolerance(relative=0.05),
    cpu=Shown(why="other work on a CPU changes it"),
    shared_gpu=Tolerance(relative=1.0),
    resume=Shown(why="a restarted process starts slowly"),
    interval=("--log-interval", 100),
    from_step=2,
)
RELATIVE_FORWARD_TIME = MetricSpec(
    name="relative-forward-time",
    kind=RELATIVE_TIME,
    tolerance=Shown(why="its tolerance was found on CPUs; iteration-time is judged here"),
    cpu=Tolerance(relative=0.25),
    summed=True,
    ours=True,
    part="forward passes",
)
# Varies least of the three.
RELATIVE_BACKWARD_TIME = dataclasses.replace(
    RELATIVE_FORWARD_TIME, name="relative-backward-time", cpu=Tolerance(relative=0.20), part="backward passes"
)
RELATIVE_STEP_TIME = dataclasses.replace(
    RELATIVE_FORWARD_TIME, name="relative-step-time", cpu=Tolerance(relative=0.35), part="computations"
)
# Evidence of overlap: counts are compared exactly, also where losses may drift; times are shown.
GRAD_BUCKETS = MetricSpec(
    name="overlap-grad-buckets",
    kind=COUNT,
    tolerance=Tolerance(),
    first_step_apart="megatron-core's first batch shows it which gradients to wait for",
    summed=True,
    ours=True,
)
PARAM_GATHERS = dataclasses.replace(
    GRAD_BUCKETS,
    name="overlap-param-gathers",
    first_step_apart="Megatron runs its first step on the loaded parameters, without gathers",
)
HIDDEN_TIME = MetricSpec(
    name="overlap-hidden-time",
    kind=COMMUNICATION,
    tolerance=Shown(why="the time of communication depends on other work"),
    summed=True,
    ours=True,
)
EXPOSED_TIME = dataclasses.replace(HIDDEN_TIME, name="overlap-exposed-time")

TABLE = {spec.name: spec for spec in list(vars().values()) if isinstance(spec, MetricSpec)}
METRICS = tuple(TABLE)


def metric_named(name: str) -> MetricSpec:
    """The definition of a metric. One that is not in the table (mtp_1 loss) is judged like a loss."""
    return TABLE.get(name) or MetricSpec(name=name, kind=COUNT, tolerance=LM_LOSS.tolerance)


def interval(metric: str, model_args: Mapping[str, object], *, subject: str) -> int:
    """Steps between logged values of a metric. ``subject``: the trainer; empty is ours, which logs all."""
    flag, default = metric_named(metric).interval
    return int(model_args.get(flag) or default) if subject else 1
