"""Synchronise a step across nodes: common start, common end, one exit code.

Nodes exchange small files in the run directory, ``nodes/<step>.<kind><node>.json``. Ranks communicate through
torch; this covers the time before and after them, so that a node that cannot start stops all others.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.machine.nodes import Nodes
from tasks.util.exits import HANG, PASSED, TRAINING_FAILED, CannotRun, TaskError, UsageError
from tasks.util.files import write_atomically

_POLL_S = 0.2
GRACE_S = 20.0  # for the results of other nodes once this one has failed
FINAL_TASK = "diff"
# Facts that may differ between nodes: every processor gives the same bits.
_OF_A_MACHINE = frozenset({"cpu"})
_BEGIN, _END, _OUTCOME = "begin", "end", "outcome"


class NodeBarrier:
    """One node's side of a synchronised step. With a single node it does nothing."""

    def __init__(self, nodes: Nodes, run_dir: Path, step: str) -> None:
        self.nodes = nodes
        self._folder = run_dir / "nodes"
        self._step = step

    @property
    def first(self) -> bool:
        """True on the node that writes the files of the whole run."""
        return self.nodes.first

    def ready(self, facts: Mapping[str, str]) -> None:
        """Wait until all nodes can start. ``facts``: the fingerprint, which must be that of node 0.

        Raises:
            TaskError: a node cannot start; message and exit code are that node's.
            UsageError: a node would train something else.
            CannotRun: a node did not come.
        """
        if not self.nodes.several:
            return
        self._write(f"{_BEGIN}{self.nodes.rank}", dict(facts))
        deadline = time.monotonic() + self.nodes.timeout_s
        while (entries := self._all(_BEGIN)) and None in entries.values():
            for rank, ended in self._all(_END).items():
                if ended and ended["code"]:
                    raise _error(ended["code"], _from_node(rank, ended["message"]))
            if time.monotonic() > deadline:
                raise CannotRun(self._absent(entries))
            self._wait()
        _refuse_differences(entries)

    def refresh(self, *folders: Path) -> None:
        """Make a network file system reread folders that other nodes write into."""
        for folder in folders if self.nodes.several else ():
            with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder):
                pass  # a client drops its cache of a folder when it changes the folder itself

    def begin(self) -> tuple[int, str] | None:
        """Remove results of an earlier process of this node; return the outcome if the step is already over.

        Raises:
            UsageError: the run is over.
        """
        judged = NodeBarrier(self.nodes, self._folder.parent, FINAL_TASK)._read(_OUTCOME)
        if judged and self._step != FINAL_TASK:
            raise UsageError(
                f"{self._folder.parent}: the run in it is over (exit code {judged['code']}): choose another"
                " --run-dir on all nodes"
            )
        self._path(f"{_END}{self.nodes.rank}").unlink(missing_ok=True)
        over = self._read(_OUTCOME)
        return (over["code"], over["message"]) if over else None

    def publish_and_wait(self, code: int, message: str) -> tuple[int, str]:
        """Publish this node's result; return the outcome, which node 0 decides when all have ended."""
        self._write(f"{_END}{self.nodes.rank}", {"code": code, "message": message})
        if not self.first:
            return self._wait_for_result(code, message)
        deadline = time.monotonic() + (min(GRACE_S, self.nodes.timeout_s) if code else self.nodes.timeout_s)
        while None in (entries := self._results(code)).values() and time.monotonic() < deadline:
            self._wait()
        outcome = decide(entries)
        self._write(_OUTCOME, {"code": outcome[0], "message": outcome[1]})
        return outcome

    def _results(self, code: int) -> dict[int, dict | None]:
        """Results by node; after a failure, only of nodes that had started."""
        began, ended = self._all(_BEGIN), self._all(_END)
        return {rank: entry for rank, entry in ended.items() if entry or began[rank] or not code}

    def abort(self, message: str) -> None:
        """Publish that this node was stopped, without waiting for the others."""
        for what in [f"{_END}{self.nodes.rank}", *([_OUTCOME] if self.first else [])]:
            self._write(what, {"code": TRAINING_FAILED, "message": message})

    def _wait_for_result(self, code: int, message: str) -> tuple[int, str]:
        deadline = time.monotonic() + (2 * GRACE_S if code else self.nodes.timeout_s)
        while (heard := self._read(_OUTCOME)) is None:
            if time.monotonic() > deadline:
                silent = "node 0 reported no outcome: it has ended, or --run-dir is another folder there"
                return code or TRAINING_FAILED, f"{message}\n{silent}" if message else silent
            self._wait()
        return heard["code"], message or _from_node(0, heard["message"])

    def _absent(self, entries: Mapping[int, object]) -> str:
        absent = ", ".join(str(rank) for rank, entry in entries.items() if entry is None)
        return (
            f"node {absent} of {self.nodes.count} did not come within {self.nodes.timeout_s:.0f} s: start the"
            f" same command there with its --node-rank; --run-dir must be one folder that all nodes see"
            f" (they meet in {self._folder})"
        )

    def _all(self, what: str) -> dict[int, dict | None]:
        return {rank: self._read(f"{what}{rank}") for rank in range(self.nodes.count)}

    def _path(self, what: str) -> Path:
        return self._folder / f"{self._step}.{what}.json"

    def _read(self, what: str) -> dict | None:
        try:
            return json.loads(self._path(what).read_text())
        except FileNotFoundError:
            return None

    def _write(self, what: str, content: Mapping[str, object]) -> None:
        write_atomically(self._path(what), json.dumps(content, indent=1))

    def _wait(self) -> None:
        self.refresh(self._folder)
        time.sleep(_POLL_S)


def run_on_all_nodes(nodes: Nodes, run_dir: Path, step: str, work: Callable[[NodeBarrier], int]) -> int:
    """Run ``work`` as this node's part of ``step``; return or raise the result of all nodes together."""
    barrier = NodeBarrier(nodes, run_dir, step)
    if not nodes.several:
        return work(barrier)
    if (outcome := barrier.begin()) is not None:  # a node that comes late, or comes back
        print(f"{step}: has ended on the other nodes with exit code {outcome[0]}")
        return _raise_or_return(*outcome)
    try:
        code, message = work(barrier), ""
    except TaskError as error:
        code, message = error.exit_code, str(error)
    except BaseException as error:  # a Ctrl-C, or a defect: the others must not wait for this node
        barrier.abort(f"{type(error).__name__}: {error}")
        raise
    return _raise_or_return(*barrier.publish_and_wait(code, message))


def _raise_or_return(code: int, message: str) -> int:
    if message:
        raise _error(code, message)
    return code


def decide(entries: Mapping[int, dict | None]) -> tuple[int, str]:
    """Exit code and message of all nodes together, from each node's result; None: a node without a result.

    A hang ends all nodes, and some see only connections that others closed: a hang therefore takes precedence
    over any other failure.
    """
    codes = {rank: TRAINING_FAILED if entry is None else entry["code"] for rank, entry in entries.items()}
    failed = {rank: code for rank, code in codes.items() if code != PASSED}
    if not failed:
        return PASSED, ""
    code = HANG if HANG in failed.values() else next(iter(failed.values()))
    lost = "reported nothing: its process has ended, or the machine is gone"
    texts = {rank: lost if entries[rank] is None else entries[rank]["message"] for rank in failed}
    lines = dict.fromkeys(_from_node(rank, text) for rank, text in texts.items() if text)  # each once
    return code, "\n".join(lines)


def _from_node(rank: int, message: str) -> str:
    return message if not message or message.startswith("node ") else f"node {rank}: {message}"


def _refuse_differences(entries: Mapping[int, dict | None]) -> None:
    first = entries[0] or {}
    for rank, facts in entries.items():
        for name in sorted((first.keys() | (facts or {}).keys()) - _OF_A_MACHINE):
            there, here = first.get(name), (facts or {}).get(name)
            if there != here:
                raise UsageError(
                    f"node {rank}: its {name} is {here}, on node 0 it is {there}: give all nodes the same"
                    " code, environment and options"
                )


def _error(code: int, message: str) -> TaskError:
    error = TaskError(message)
    error.exit_code = code
    return error
