"""The table of metrics: a definition is all that a metric needs, and it is complete."""

from __future__ import annotations

import ast

import pytest

from tasks.cases import metrics
from tasks.cases.metrics import METRICS, TABLE, Shown, interval
from tasks.cases.schema import check_shape
from tasks.launch.trainer import MEGATRON, TrainerUnderTest
from tasks.util.files import REPOSITORY

KINDS = [value for value in vars(metrics).values() if isinstance(value, metrics.Kind)]


@pytest.mark.parametrize("metric", TABLE.values(), ids=lambda metric: metric.name)
def test_a_definition_holds_all_that_is_known_of_a_metric(metric):
    """A line for a new metric: its name, a kind, a tolerance; ``summed`` where ranks measure it together and
    ``ours`` where Megatron-LM does not log it; ``first_step_apart`` and platforms where they differ.
    """
    assert any(metric.kind is kind for kind in KINDS)
    for rule in (metric.tolerance, metric.cpu, metric.shared_gpu, metric.resume):
        if isinstance(rule, Shown):
            assert rule.why, "the report has the reason why it is not judged"
        elif rule is not None:
            assert (rule.one_sided, rule.restarted) == (False, False), "they follow from kind and comparison"
    assert metric.kind.change or not metric.kind.median, "a time that is judged has an explanation"


def test_a_metric_may_be_asked_for_by_a_case_as_soon_as_it_is_defined():
    case = {"MODEL_ARGS": {}, "TEST_TYPE": "regular", "METRICS": list(METRICS)}
    assert check_shape(case) == []
    assert tuple(TABLE) == METRICS
    assert len(METRICS) == 17


def test_no_metric_is_named_again_outside_the_table():
    """A docstring or a comment may; of Megatron-LM, its own lists and its own names do."""
    theirs = {"judge/megatron_policy.py", "cases/megatron_lm_case.py", "ranks/megatron_lm.py"}
    theirs |= {"ranks/megatron_wheel.py", "cases/metrics.py"}
    named = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}: {node.value}"
        for path in sorted((REPOSITORY / "tasks").rglob("*.py"))
        if str(path.relative_to(REPOSITORY / "tasks")) not in theirs
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in METRICS
    ]
    assert named == []


def test_megatron_lm_logs_what_is_not_ours():
    measured = TrainerUnderTest(loop=MEGATRON).measured(METRICS)
    times = {"relative-forward-time", "relative-backward-time", "relative-step-time"}
    counts = {"overlap-grad-buckets", "overlap-param-gathers"}
    overlap = {"overlap-hidden-time", "overlap-exposed-time"}
    assert {*METRICS} - {*measured} == {"mem-growth-bytes"} | times | counts | overlap


def test_how_often_a_metric_is_logged():
    flags = {"--log-interval": 10, "--tensorboard-log-interval": 5}
    assert interval("iteration-time", flags, subject="core_v0.16.1") == 10
    assert interval("lm loss", flags, subject="core_v0.16.1") == 5
    assert interval("iteration-time", {}, subject="core_v0.16.1") == 100
    assert interval("iteration-time", flags, subject="") == 1, "our trainer logs each step"
