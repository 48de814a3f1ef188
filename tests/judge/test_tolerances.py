"""The rule of a metric: its kind, its numbers, and what platform, comparison and basis change in it."""

from __future__ import annotations

import pytest

from tasks.cases.metrics import METRICS, Exact, Shown, Tolerance, metric_named
from tasks.judge.tolerances import Basis, rule_for

SAME = Basis(check="exact", reason="fingerprints agree")
OTHER_VERSION = Basis(check="approximate", reason="torch 1 → 2")
DETERMINISTIC = {
    "lm loss": 0.05,
    "num-zeros": 0.20,
    "grad-norm": 0.20,
    "params-norm": 0.01,
    "learning-rate": 1e-6,
    "decoupled-learning-rate": 1e-6,
    "overlap-grad-buckets": 0.0,
    "overlap-param-gathers": 0.0,
    "mtp_1 loss": 0.05,
}
MIB = 2.0**20


@pytest.mark.parametrize(("name", "relative"), DETERMINISTIC.items())
@pytest.mark.parametrize("platform", [None, "cpu_x86_64", "gpu1_h100", "dgx_a100"])
def test_what_is_deterministic_is_exact_until_the_basis_excuses_it(name, relative, platform):
    assert rule_for(name, platform=platform, basis=SAME) == Exact()
    assert rule_for(name, platform=platform, basis=OTHER_VERSION) == Tolerance(relative=relative)


@pytest.mark.parametrize(
    ("platform", "allocated", "growth", "iteration", "relative"),
    [
        (None, (0.05, 0), (0.0, 4 * MIB), (0.05, 0), None),
        ("dgx_a100", (0.05, 0), (0.0, 4 * MIB), (0.05, 0), None),
        ("gpu4_h100", (0.05, 0), (0.0, 4 * MIB), (0.05, 0), None),
        ("gpu1_h100", (0.05, 0), (0.20, 4 * MIB), (1.0, 0), None),
        ("gpu2_h100", (0.05, 0), (0.20, 4 * MIB), (1.0, 0), None),
        ("cpu_x86_64", (0.10, 8 * MIB), (0.0, 4 * MIB), None, (0.25, 0.20, 0.35)),
        ("cpu_aarch64", (0.10, 8 * MIB), (0.0, 4 * MIB), None, (0.25, 0.20, 0.35)),
    ],
)
def test_time_and_memory_by_platform(platform, allocated, growth, iteration, relative):
    forward, backward, step = relative or (None, None, None)
    wanted = {
        "mem-allocated-bytes": allocated,
        "mem-max-allocated-bytes": allocated,
        "mem-growth-bytes": growth,
        "iteration-time": iteration,
        "relative-forward-time": forward and (forward, 0),
        "relative-backward-time": backward and (backward, 0),
        "relative-step-time": step and (step, 0),
        "overlap-hidden-time": None,
        "overlap-exposed-time": None,
    }
    assert {*wanted, *DETERMINISTIC} == {*METRICS, "mtp_1 loss"}
    for name, numbers in wanted.items():
        rule = rule_for(name, platform=platform, basis=SAME)
        assert isinstance(rule, Shown) == (numbers is None), name
        if numbers:
            assert (rule.relative, rule.absolute) == numbers, name
            assert (rule.one_sided, rule.restarted) == (True, False), name


def test_a_restart_is_compared_with_its_own_run():
    assert isinstance(rule_for("iteration-time", basis=SAME, comparison="resume"), Shown)
    restarted = Basis(check="exact", reason="", restarted=True)
    for rule in (
        rule_for("mem-growth-bytes", basis=SAME, comparison="resume"),
        rule_for("mem-growth-bytes", basis=restarted),
    ):
        assert (rule.one_sided, rule.restarted) == (True, True), "less is no improvement"


def test_relative_times_need_the_same_processor():
    other = Basis(check="exact", reason="", same_processor=False)
    rule = rule_for("relative-step-time", platform="cpu_x86_64", basis=other)
    assert rule == Shown(why="the card was recorded on another processor")
    assert isinstance(rule_for("iteration-time", basis=other), Tolerance)


@pytest.mark.parametrize("check", ["exact", "approximate"])
def test_on_other_ranks_values_of_the_model_are_judged_and_the_schedule_is_exact(check):
    layout = Basis(check=check, reason="layout", only_the_model="layout")
    rules = {name: rule_for(name, basis=layout, comparison="resume") for name in (*METRICS, "mtp_1 loss")}
    judged = {name for name, rule in rules.items() if not isinstance(rule, Shown)}
    schedule = {"learning-rate", "decoupled-learning-rate"}
    assert judged == {"lm loss", "num-zeros", "grad-norm", "params-norm"} | schedule
    for name in schedule:
        rule = rules[name]
        assert rule == Exact() if check == "exact" else (rule.relative, rule.absolute) == (0.0, 0.0)


def test_a_metric_that_the_table_has_not_is_judged_as_a_loss():
    assert metric_named("mtp_1 loss").tolerance == metric_named("lm loss").tolerance
