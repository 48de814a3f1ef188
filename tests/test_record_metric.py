"""Recording single metrics of a card: all others must match it, and stay."""

from __future__ import annotations

import pytest

from tasks.records.card_lint import problems
from tasks.records.card_store import read_card, read_provenance
from tasks.util.exits import UsageError
from tasks.util.files import file_sha256
from tests.fake_run import CASE, FINGERPRINT, card, write_run
from tests.recording import path_in, record
from tests.stub_checkout import add_case


def scaled(**factors):
    """Values of a run, of which some metrics (``_`` for ``-``) are multiplied."""
    by_name = {name.replace("_", "-"): factor for name, factor in factors.items()}
    change = lambda name, step, number: number * by_name.get(name, 1.0)  # noqa: E731
    return {"phase1": card(change=change), "phase2": card(51, change=change)}


def test_one_metric_is_written_alone_and_the_others_stay(tmp_path):
    record(tmp_path, *(write_run(tmp_path / name) for name in "abc"))
    before, first = read_card(path_in(tmp_path)), read_provenance(path_in(tmp_path))
    run = write_run(tmp_path / "d", **scaled(mem_allocated_bytes=0.1, iteration_time=3.0))
    record(tmp_path, run, yes=True, reason="smaller", metrics=["mem-allocated-bytes"])
    after, provenance = read_card(path_in(tmp_path)), read_provenance(path_in(tmp_path))
    for name, metric in before.metrics.items():
        factor = 0.1 if name == "mem-allocated-bytes" else 1.0
        assert after.metrics[name].values == pytest.approx(metric.values * factor), name
    (update,) = provenance["updates"]
    assert (update["metrics"], update["reason"]) == (["mem-allocated-bytes"], "smaller")
    assert (update["equal_runs"], update["fingerprint"]) == (1, FINGERPRINT)
    assert (provenance["reason"], provenance["equal_runs"]) == ("because", 3)
    assert provenance["card_sha256"] == file_sha256(path_in(tmp_path)) != first["card_sha256"]
    add_case(tmp_path, CASE)
    assert problems(tmp_path) == []


def test_a_metric_alone_is_refused_where_another_one_differs_from_the_card(tmp_path):
    good = write_run(tmp_path / "a")
    with pytest.raises(UsageError, match=r"there is no \S+_lts_cpu_x86_64.json to update"):
        record(tmp_path, good, metrics=["mem-allocated-bytes"])
    record(tmp_path, good)
    with pytest.raises(UsageError, match=r"--metric mem: the run has no such metric\. Metrics: lm loss"):
        record(tmp_path, good, metrics=["mem"])
    other = write_run(tmp_path / "b", **scaled(grad_norm=1 + 1e-12))
    content = path_in(tmp_path).read_bytes()
    with pytest.raises(UsageError, match=r"'grad-norm' is not that of \S+ \(regression\)"):
        record(tmp_path, other, yes=True, metrics=["mem-allocated-bytes"])
    assert path_in(tmp_path).read_bytes() == content
