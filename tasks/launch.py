"""One phase: an elastic agent in this process that imports torch and megatron once and forks the ranks.

Importing costs seconds in every process; a fork shares what the parent imported. CUDA is never initialised
here: a forked process cannot use the CUDA of its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import mps, nccl
from tasks.exits import Hang, TrainingFailed
from tasks.progress import ProgressBoard
from tasks.subject import OURS, Subject
from tasks.watchdog import Watchdog

# What every rank would import for itself otherwise.
_SHARED_MODULES = (
    "multiprocessing.managers",  # megatron's asynchronous checkpoint writer
    "torch._dynamo",  # megatron's fused functions
    "torch._inductor.config",  # deterministic mode sets an option of the compiler, too
    "torch.distributed.launcher.api",
    "torch.utils.tensorboard",
)
_LOOPBACK = "127.0.0.1"
_FORK_POLL_S = 0.005
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is to be launched. ``steps``: first and last iteration, for the progress display."""

    words: tuple[str, ...]  # Megatron's command line
    directory: Path
    world_size: int
    device: str  # "cpu" or "cuda"
    ranks_per_gpu: int = 0
    steps: tuple[int, int]
    env_vars: dict[str, str] = field(default_factory=dict)
    rank_plugins: tuple[Path, ...] = ()
    hang_timeout_s: float | None = None
    max_restarts: int = 0
    subject: Subject = OURS


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a launched phase went."""

    restarts: int
    start_s: float  # from here to the first rank's first note: imports and forks
    total_s: float


def rank_log(directory: Path, rank: int) -> Path:
    """The log of one rank."""
    return directory / f"rank{rank}.log"


def launch(phase: Phase) -> Outcome:
    """Run all ranks of ``phase`` to their end.

    Errors: ``TrainingFailed`` naming the rank that failed first, its error and its log; ``Hang`` with every
    rank's stack when none made progress. No process is left behind, whatever happens.
    """
    begin = time.monotonic()
    os.environ.update(phase.env_vars)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here; no name has to be looked up
    phase.directory.mkdir(parents=True, exist_ok=True)
    with mps.daemon(wanted=phase.ranks_per_gpu > 1) as daemon:
        _preload(phase.device, phase.ranks_per_gpu, phase.subject)
        daemon.join(print)
        board = ProgressBoard(phase.world_size)
        dog = Watchdog(board, phase.directory, phase.steps, phase.hang_timeout_s)
        with _no_process_left_behind(), dog:
            restarts = _run_agent(phase, board, dog)
    first_note = dog.first_note_s
    return Outcome(
        restarts=restarts,
        start_s=(first_note or time.monotonic()) - begin,
        total_s=time.monotonic() - begin,
    )


def _preload(device: str, ranks_per_gpu: int, subject: Subject) -> None:
    """Import in the parent everything that the ranks share; on a CPU, put the stand-in for CUDA in force."""
    warnings.filterwarnings("ignore", module=r"(megatron|transformer_engine)\b.*")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that a CPU host lacks CUDA
    if device == "cpu":
        from tasks.ranks import cuda_on_cpu

        cuda_on_cpu.install()
    else:
        nccl.put_in_front(ranks_per_gpu=ranks_per_gpu)
    for name in _SHARED_MODULES:
        importlib.import_module(name)
    subject.preload()
    import torch

    if device == "cpu":
        cuda_on_cpu.finish_install()
    else:
        importlib.import_module("tasks.ranks.warm_up").import_compilers()
    if device == "cuda" and torch.cuda.is_initialized():
        raise RuntimeError("CUDA was initialised in the process that forks the ranks")
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages shared with the ranks


def _run_agent(phase: Phase, board: ProgressBoard, dog: Watchdog) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they report is reported below, in one place
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=phase.world_size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        # A free port; and a numeric address, since looking up a name takes a lock of the C library that a
        # thread of the agent may hold just when it forks: that rank would wait for it forever.
        rdzv_endpoint=f"{_LOOPBACK}:0",
        local_addr=_LOOPBACK,
        start_method="fork",
        max_restarts=phase.max_restarts,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=None),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        elastic_launch(config, _rank_main)(phase, board, os.getpid())
    except ChildFailedError as error:
        if dog.hang_report is not None:
            raise Hang(dog.hang_report) from None
        raise TrainingFailed(_describe_failure(phase, error)) from None
    except SignalException as stop:
        raise KeyboardInterrupt(f"stopped by signal {signal.Signals(stop.sigval).name}") from None
    return _restarts(phase)


def _rank_main(phase: Phase, board: ProgressBoard, parent: int) -> None:
    """Runs in every forked rank."""
    _die_with_parent(parent)
    os.register_at_fork(after_in_child=lambda: _die_with_parent(None))
    if phase.device == "cpu":
        # Ranks outnumber cores: without preempting each other at every message they are 6 % faster.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    rank = int(os.environ["RANK"])
    log = open(rank_log(phase.directory, rank), "a", buffering=1)  # noqa: SIM115 - the rank's for its life
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    # New objects: the inherited ones may be locked by a thread of the parent that the fork did not copy.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM):  # not the agent's handler: a waiting rank would not run it
        signal.signal(number, signal.SIG_DFL)
    board.note(rank, process_id=os.getpid(), step=phase.steps[0] - 1, activity="starting")
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    print(f"rank {rank} attempt {attempt} process {os.getpid()}", flush=True)
    stacks = open(phase.directory / f"rank{rank}.stack", "w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)

    run = phase.subject.program()
    _wait_for_forks(board)
    try:
        run(phase.words, evidence=phase.directory / "evidence", rank_plugins=phase.rank_plugins, board=board)
    except BaseException as error:
        _note_failure(phase.directory, rank, error)
        # Python waits for child processes when it ends; a checkpoint worker would never end by itself.
        for child in multiprocessing.active_children():
            child.kill()
        raise


def _wait_for_forks(board: ProgressBoard) -> None:
    """Connect to nothing before all ranks of this attempt are forked.

    The agent's store looks up the name of whoever connects, in a thread, under a lock of the C library. A
    rank forked at that moment inherits the lock taken, and hangs at its own first look-up. Measured without
    this: 3 hangs in 120 starts of 8 ranks.
    """
    while not all(_is_alive(row.process_id) for row in board.rows()):
        time.sleep(_FORK_POLL_S)


def _is_alive(process_id: int) -> bool:
    if not process_id:
        return False  # it has not noted itself yet; after a restart, its row still names the one before
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, 0)
        return True
    return False


def _note_failure(directory: Path, rank: int, error: BaseException) -> None:
    """Say when and why this rank failed. The agent's own times are whole seconds: too coarse to tell the
    rank that failed from those that lost their connection to it."""
    traceback.print_exc()
    content = {"seconds": time.time(), "error": f"{type(error).__name__}: {error}"}
    (directory / f"rank{rank}.failure").write_text(json.dumps(content))


def _die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when the one that forked it ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _no_process_left_behind() -> Iterator[None]:
    """Adopt orphaned descendants (a killed rank's checkpoint worker), and end all that remain afterwards.

    What was there before, as the guard of an MPS daemon, is spared.
    """
    import psutil

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = psutil.Process().children()
    try:
        yield
    finally:
        new = [child for child in psutil.Process().children() if child not in before]
        remaining = [process for child in new for process in [child, *_descendants(child)]]
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=5)


def _descendants(process: Any) -> list[Any]:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _restarts(phase: Phase) -> int:
    """How often the ranks were started again, from the lines that rank 0 wrote when it started."""
    lines = rank_log(phase.directory, 0).read_text(errors="replace").splitlines()
    return sum(line.startswith("rank 0 attempt ") for line in lines) - 1


def _describe_failure(phase: Phase, error: Any) -> str:
    """The rank that failed first, and why; ranks that were killed could not say so themselves."""
    killed = {rank: failure for rank, failure in error.failures.items() if failure.exitcode < 0}
    noted = {}
    for path in phase.directory.glob("rank*.failure"):
        noted[int(path.stem.removeprefix("rank"))] = json.loads(path.read_text())
    ended = {rank: failure for rank, failure in killed.items() if failure.exitcode != -signal.SIGTERM}
    if noted and not ended:
        rank = min(noted, key=lambda rank: noted[rank]["seconds"])
        reason = f"failed: {noted[rank]['error'].strip().splitlines()[0]}"
    else:
        rank = min(ended or killed or error.failures)
        code = error.failures[rank].exitcode
        reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    log = rank_log(phase.directory, rank)
    return f"rank {rank} {reason}; its log: {log}; last lines:\n{_tail(log)}"


def _tail(log: Path, lines: int = 12) -> str:
    if not log.is_file():
        return "  (no log)"
    return "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def run_to_end(task: Callable[[], int]) -> int:
    """Run a task; a Ctrl-C or SIGTERM ends it with the shell's code for it, after its ranks have ended."""
    try:
        return task()
    except KeyboardInterrupt as stop:
        print(f"error: {stop or 'stopped by Ctrl-C'}; the ranks have ended", file=sys.stderr)
        return 128 + signal.SIGINT
