"""Steps that several nodes take together: nobody starts alone, nobody is waited for in vain, one outcome."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.launch import node_barrier
from tasks.launch.node_barrier import NodeBarrier, decide, run_on_all_nodes
from tasks.machine.nodes import ALONE, Nodes
from tasks.util.exits import (
    CANNOT_RUN,
    HANG,
    MISMATCH,
    PASSED,
    TRAINING_FAILED,
    CannotRun,
    TaskError,
    UsageError,
)

FACTS = {"case": "a", "commit": "b", "cpu": "EPYC"}


def node(rank: int, *, timeout_s: float = 30, count: int = 2) -> Nodes:
    return Nodes(count=count, rank=rank, endpoint="127.0.0.1:29400", timeout_s=timeout_s)


def together(
    run_dir: Path, *works: Callable[[NodeBarrier], int], step: str = "train", timeout_s: float = 30
) -> list[tuple[int, str]]:
    """Every work as a node of its own; exit code and message of each."""
    outcomes: list[tuple[int, str]] = [(-1, "")] * len(works)

    def run(rank: int) -> None:
        try:
            nodes = node(rank, count=len(works), timeout_s=timeout_s)
            outcomes[rank] = (run_on_all_nodes(nodes, run_dir, step, works[rank]), "")
        except TaskError as error:
            outcomes[rank] = (error.exit_code, str(error))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def starts(barrier: NodeBarrier) -> int:
    barrier.ready(FACTS)
    return PASSED


def raises(error: TaskError, *, ready: bool = True) -> Callable[[NodeBarrier], int]:
    def work(barrier: NodeBarrier) -> int:
        if ready:
            barrier.ready(FACTS)
        raise error

    return work


def test_a_machine_alone_meets_nobody(tmp_path: Path) -> None:
    assert run_on_all_nodes(ALONE, tmp_path, "train", starts) == PASSED
    assert not list(tmp_path.iterdir())


def test_nobody_starts_before_all_are_there(tmp_path: Path) -> None:
    late, started = threading.Event(), threading.Event()

    def waits(barrier: NodeBarrier) -> int:
        barrier.ready(FACTS)
        assert late.is_set()
        started.set()
        return PASSED

    def comes_late(barrier: NodeBarrier) -> int:
        assert not started.wait(1)
        late.set()
        return starts(barrier)

    assert together(tmp_path, waits, comes_late) == [(PASSED, "")] * 2
    assert started.is_set()


def test_a_node_that_cannot_start_keeps_all_from_starting(tmp_path: Path) -> None:
    outcomes = together(tmp_path, starts, raises(CannotRun("there is no GPU"), ready=False))
    assert [code for code, _ in outcomes] == [CANNOT_RUN] * 2
    assert [message for _, message in outcomes] == ["node 1: there is no GPU", "there is no GPU"]


def test_a_node_that_does_not_come_is_named(tmp_path: Path) -> None:
    named = r"^node 1 of 2 did not come within 0 s: .*folder that all nodes see"
    with pytest.raises(TaskError, match=named) as failed:
        run_on_all_nodes(node(0, timeout_s=0.4), tmp_path, "train", starts)
    assert failed.value.exit_code == CANNOT_RUN


@pytest.mark.parametrize(("name", "value"), [("commit", "c"), ("case", "z"), ("torch", "2")])
def test_a_node_that_would_train_something_else_is_refused(tmp_path: Path, name: str, value: str) -> None:
    def differs(barrier: NodeBarrier) -> int:
        barrier.ready({**FACTS, name: value, "cpu": "Xeon"})
        return PASSED

    outcomes = together(tmp_path, starts, differs)
    assert [code for code, _ in outcomes] == [2, 2]
    assert f"node 1: its {name} is {value}" in outcomes[1][1]


def test_processors_may_differ(tmp_path: Path) -> None:
    def other(barrier: NodeBarrier) -> int:
        barrier.ready({**FACTS, "cpu": "Xeon"})
        return PASSED

    assert together(tmp_path, starts, other) == [(PASSED, "")] * 2


@pytest.mark.parametrize("code", [PASSED, MISMATCH])
def test_all_exit_with_the_code_of_node_0(tmp_path: Path, code: int) -> None:
    assert together(tmp_path, lambda _: code, lambda _: PASSED, step="diff") == [(code, "")] * 2


def test_a_failure_anywhere_is_everybodys(tmp_path: Path) -> None:
    outcomes = together(tmp_path, starts, raises(node_barrier.TaskError("x")), starts)
    assert [code for code, _ in outcomes] == [2, 2, 2]


def test_a_node_that_says_nothing_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_barrier, "GRACE_S", 0.3)
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/train.begin1.json").write_text(json.dumps(FACTS))
    with pytest.raises(TaskError, match=r"node 0: a rank failed\nnode 1: reported nothing") as failed:
        run_on_all_nodes(node(0), tmp_path, "train", raises(_failed("a rank failed")))
    assert failed.value.exit_code == TRAINING_FAILED
    run_dir = tmp_path / "other"
    with pytest.raises(TaskError, match="node 0 reported no outcome") as failed:
        run_on_all_nodes(node(1), run_dir, "train", raises(_failed("connection closed"), ready=False))
    assert failed.value.exit_code == TRAINING_FAILED


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_once_a_node_has_failed_those_that_came_have_a_moment_and_the_others_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(node_barrier, "time", clock)
    with pytest.raises(TaskError, match=r"^node 0: a rank failed$"):
        run_on_all_nodes(
            node(0, timeout_s=600), tmp_path / "alone", "train", raises(_failed("a rank failed"), ready=False)
        )
    assert clock.now == 0
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/train.begin1.json").write_text(json.dumps(FACTS))
    with pytest.raises(TaskError, match=r"node 0: a rank failed\nnode 1: reported nothing"):
        run_on_all_nodes(
            node(0, timeout_s=600), tmp_path, "train", raises(_failed("a rank failed"), ready=False)
        )
    assert node_barrier.GRACE_S <= clock.now < node_barrier.GRACE_S + 1
    clock.now = 0.0
    with pytest.raises(TaskError, match="node 1: reported nothing"):
        run_on_all_nodes(node(0, timeout_s=600), tmp_path, "diff", lambda _: PASSED)
    assert 600 <= clock.now < 601, "it may be far behind, and all went well so far"


def test_a_node_that_does_not_hear_from_node_0_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_barrier, "time", Clock())
    with pytest.raises(TaskError, match="node 0 reported no outcome") as failed:
        run_on_all_nodes(node(1), tmp_path, "train", lambda _: PASSED)
    assert failed.value.exit_code == TRAINING_FAILED


def test_a_hang_is_said_before_the_connections_that_it_closed() -> None:
    failed, hung = {"code": 3, "message": "rank 1 failed"}, {"code": 4, "message": "rank 5 is behind"}
    assert decide({0: failed, 1: hung}) == (HANG, "node 0: rank 1 failed\nnode 1: rank 5 is behind")
    assert decide({0: {"code": 0, "message": ""}, 1: None})[0] == TRAINING_FAILED
    assert decide({0: {"code": 0, "message": ""}, 1: {"code": 0, "message": ""}}) == (PASSED, "")


def test_a_node_that_is_stopped_says_so_and_waits_for_nobody(tmp_path: Path) -> None:
    def stopped(_: NodeBarrier) -> int:
        raise KeyboardInterrupt("stopped by signal SIGTERM")

    with pytest.raises(KeyboardInterrupt):
        run_on_all_nodes(node(0), tmp_path, "train", stopped)
    outcome = json.loads((tmp_path / "nodes/train.outcome.json").read_text())
    assert outcome["code"] == TRAINING_FAILED
    assert "SIGTERM" in outcome["message"]


def test_a_node_that_comes_back_goes_on_where_the_others_are(tmp_path: Path) -> None:
    together(tmp_path, starts, starts)

    def never(_: NodeBarrier) -> int:
        raise AssertionError("this step is over")

    assert run_on_all_nodes(node(1), tmp_path, "train", never) == PASSED


def test_what_a_node_said_before_it_came_back_is_forgotten(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_on_all_nodes(node(1), tmp_path, "train", _interrupted)
    back = threading.Event()

    def waits(
        barrier: NodeBarrier,
    ) -> int:  # until then node 1 counts as stopped
        assert back.wait(20)
        return starts(barrier)

    def comes_back(barrier: NodeBarrier) -> int:
        back.set()
        return starts(barrier)

    assert together(tmp_path, waits, comes_back) == [(PASSED, "")] * 2


@pytest.mark.parametrize("code", [PASSED, MISMATCH])
def test_a_node_that_comes_late_hears_how_it_went(tmp_path: Path, code: int) -> None:
    together(tmp_path, lambda _: code, lambda _: PASSED, step="diff")
    assert run_on_all_nodes(node(1), tmp_path, "diff", raises(_failed("not again"))) == code
    together(tmp_path / "failed", raises(_failed("x")), starts)
    with pytest.raises(TaskError, match="node 0: x") as failed:
        run_on_all_nodes(node(1), tmp_path / "failed", "train", starts)
    assert failed.value.exit_code == TRAINING_FAILED


def test_a_run_that_was_judged_is_not_joined(tmp_path: Path) -> None:
    together(tmp_path, lambda _: MISMATCH, lambda _: PASSED, step="diff")
    with pytest.raises(UsageError, match=r"is over \(exit code 1\): choose another --run-dir"):
        run_on_all_nodes(node(1), tmp_path, "train", starts)


def _failed(message: str) -> TaskError:
    error = TaskError(message)
    error.exit_code = TRAINING_FAILED
    return error


def _interrupted(_: NodeBarrier) -> int:
    raise KeyboardInterrupt
