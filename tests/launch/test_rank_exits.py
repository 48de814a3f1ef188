"""Every rank's exit code is reported, also when it leaves without finishing."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.api import MultiprocessContext

from tasks.launch.rank_exits import all_exit_codes


def closed(context: object) -> None:
    """As torch does with an attempt that failed: when it sees that, and before the next one."""
    context._close(signal.SIGTERM)
    context._close(signal.SIGTERM)


def attempt(*exit_codes: int | None) -> object:
    """torch's context of an attempt whose processes ended so."""
    context = MultiprocessContext.__new__(MultiprocessContext)
    context._pc = SimpleNamespace(processes=[SimpleNamespace(exitcode=code, pid=1) for code in exit_codes])
    context._worker_finished_event = threading.Event()
    context._tail_logs, context.filtered_stdout, context.filtered_stderr = [], None, None
    context.error_files, context.stdouts, context.stderrs = dict.fromkeys(range(len(exit_codes)), ""), {}, {}
    return context


def test_each_failed_attempt_is_reported_once_if_another_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiprocessContext, "_close", lambda *_, **__: None)
    reported: list[dict[int, int]] = []
    with all_exit_codes(4, restarts=2, before_restart=lambda: reported.append(dict(codes))) as codes:
        for ended in ((None, -signal.SIGKILL), (1, -signal.SIGTERM), (3, None)):
            closed(attempt(*ended))
    assert reported == [{5: -signal.SIGKILL}, {4: 1}]
    assert codes == {4: 3}, "those of the last attempt are known all the same"


def test_a_rank_that_left_with_exit_code_0_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiprocessContext, "_close", lambda *_, **__: None)
    monkeypatch.setattr(MultiprocessContext, "_poll", lambda _: None)
    with all_exit_codes(0, restarts=0, before_restart=pytest.fail) as codes:
        assert attempt(None, None)._poll() is None
        result = attempt(None, 0)._poll()
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 0}
    assert codes == {1: 0}


def test_an_attempt_that_finished_has_no_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiprocessContext, "_close", lambda *_, **__: None)
    context = attempt(0, 0)
    context._worker_finished_event.set()
    with all_exit_codes(0, restarts=1, before_restart=pytest.fail) as codes:
        closed(context)
    assert codes == {}
