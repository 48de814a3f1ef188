"""One phase: an elastic agent in this process that imports torch and megatron once and forks the ranks."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import multiprocessing
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.launch import collectives, data_stack, failures
from tasks.launch.imports import ImportSettings, preload
from tasks.launch.killer import Killed, Killer
from tasks.launch.rank_exits import all_exit_codes
from tasks.launch.setup import Setup
from tasks.launch.watchdog import Watchdog
from tasks.machine import host_memory, mps
from tasks.machine import nodes as nodes_module
from tasks.records import attempts
from tasks.records.checkpoints import list_checkpoints
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity
from tasks.util.exits import Hang
from tasks.util.processes import adopt_orphans, be_killed_first, descendants, end_with_parent
from tasks.util.progress import ProgressBoard

_FORK_POLL_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase to launch. ``steps``: first and last iteration, for the progress display."""

    setup: Setup
    number: int
    argv: tuple[str, ...]  # Megatron's command line
    steps: tuple[int, int]
    identity: CheckpointIdentity = ANY_IDENTITY  # of the checkpoints that it saves
    expected: CheckpointIdentity = ANY_IDENTITY  # of a checkpoint that it loads

    @property
    def directory(self) -> Path:
        """Folder of its logs, events and evidence."""
        return self.setup.phase_directory(self.number)

    @property
    def local_ranks(self) -> int:
        """Ranks on each node."""
        return self.setup.platform.world_size // self.setup.nodes.count

    @property
    def import_settings(self) -> ImportSettings:
        """Import settings of its ranks."""
        setup = self.setup
        return ImportSettings(
            device=setup.platform.device,
            ranks_per_gpu=setup.platform.ranks_per_gpu,
            trainer=setup.trainer,
            env_vars=setup.env_vars,
        )

    def newest_checkpoint(self) -> int | None:
        """The checkpoint from which a restarted attempt goes on."""
        return list_checkpoints(self.setup.checkpoints).tracked


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """Result of a launched phase."""

    kills: tuple[Killed, ...]
    start_s: float  # until the first rank's first note: imports and forks
    total_s: float


def launch(phase: Phase) -> PhaseResult:
    """Run all ranks of ``phase`` to their end. No process is left behind, whatever happens.

    Raises:
        TrainingFailed: names the rank that failed first, its error and its log.
        InfrastructureFailure: the same, where the infrastructure is to blame.
        Hang: no rank made progress; the message has every rank's stack.
    """
    begin, setup = time.monotonic(), phase.setup
    os.environ.update(setup.env_vars)
    for name, value in nodes_module.agent_variables(setup.nodes).items():
        os.environ.setdefault(name, value)
    phase.directory.mkdir(parents=True, exist_ok=True)
    with mps.daemon(wanted=setup.platform.ranks_per_gpu > 1) as daemon:
        preload(phase.import_settings)
        daemon.join(print)
        board = ProgressBoard(phase.local_ranks)
        several = setup.nodes.several
        dog = Watchdog(board, phase.directory, phase.steps, setup.hang_timeout_s, several_nodes=several)
        killer = Killer(board, setup.case.kills, phase.newest_checkpoint)
        with failures.classify_agent_errors(phase.directory), _no_process_left_behind(daemon), dog, killer:
            _run_agent(phase, board, dog, daemon)
    end = time.monotonic()
    start_s = (dog.first_note_s or end) - begin
    return PhaseResult(kills=tuple(killer.done), start_s=start_s, total_s=end - begin)


def _run_agent(phase: Phase, board: ProgressBoard, dog: Watchdog, daemon: mps.Daemon) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they report is reported below, in one place
    nodes, max_restarts = phase.setup.nodes, phase.setup.max_restarts
    config = LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=phase.local_ranks,
        rdzv_backend="c10d",
        **nodes_module.agent_settings(nodes, phase.directory),
        start_method="fork",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=None),
    )
    memory_kills = host_memory.kills()
    first_attempt = len(attempts.processes(phase.directory))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        first_rank = nodes.rank * phase.local_ranks
        with all_exit_codes(
            first_rank, restarts=max_restarts, before_restart=lambda: daemon.renew(print)
        ) as exit_codes:
            elastic_launch(config, _rank_main)(phase, board, os.getpid(), first_attempt)
        if dog.hang_report is not None:  # ended as they were asked to give their stacks
            raise Hang(dog.hang_report)
    except ChildFailedError as error:
        if dog.hang_report is not None:
            raise Hang(dog.hang_report) from None
        raise failures.failure_of(
            phase.directory,
            exit_codes | {rank: failure.exitcode for rank, failure in error.failures.items()},
            max_restarts=max_restarts,
            kills_wanted=bool(phase.setup.case.kills),
            killed_for_memory=host_memory.kills() > memory_kills,
        ) from None
    except RendezvousError as error:
        trained = dog.first_note_s is not None
        raise nodes_module.rendezvous_failure(nodes, error, trained=trained) from None
    except SignalException as stop:
        raise KeyboardInterrupt(f"stopped by signal {signal.Signals(stop.sigval).name}") from None


def _rank_main(phase: Phase, board: ProgressBoard, parent: int, first_attempt: int) -> None:
    """Run the program in a forked rank, and note its failure."""
    rank = int(os.environ["RANK"])
    attempt = first_attempt + int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    _become_rank(phase, rank, parent)
    board.note(rank, process_id=os.getpid(), step=phase.steps[0] - 1, activity="starting")
    print(attempts.begin_line(rank, attempt, os.getpid()), flush=True)
    print(f"on {platform.node()}, agent {os.getppid()}", flush=True)
    from tasks.ranks import flight_recorder

    run = phase.setup.trainer.program()
    flight_recorder.answer(collectives.record_file(phase.directory, rank))
    _wait_for_forks(board)
    try:
        with _no_exit_is_success():
            data_stack.with_room(
                functools.partial(
                    run,
                    phase.argv,
                    evidence=attempts.evidence_folder(phase.directory, attempt),
                    rank_plugins=phase.setup.rank_plugins,
                    board=board,
                    attempt=attempt,
                    identity=phase.identity,
                    expected=phase.expected,
                )
            )
    except BaseException as error:
        traceback.print_exc()
        failures.note(phase.directory, rank, error)
        # Python waits for child processes when it ends; a checkpoint worker would never end by itself.
        for child in multiprocessing.active_children():
            child.kill()
        raise


def _become_rank(phase: Phase, rank: int, parent: int) -> None:
    """Adopt the forked process: end with the agent; own scheduling, log, signal handlers and stack file."""
    end_with_parent(parent=parent)
    be_killed_first()
    os.register_at_fork(after_in_child=end_with_parent)
    if phase.setup.platform.device == "cpu":
        # Ranks outnumber cores: without preempting each other at every message they are 6 % faster.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with open(attempts.rank_log(phase.directory, rank), "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # New objects: the inherited ones may be locked by a thread of the parent that the fork did not copy.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM):  # not the agent's handler: a waiting rank would not run it
        signal.signal(number, signal.SIG_DFL)
    failures.note_file(phase.directory, rank).unlink(missing_ok=True)  # of the attempt before
    stacks = open(phase.directory / f"rank{rank}.stack", "w")  # noqa: SIM115 - open for the rank's life
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)


@contextlib.contextmanager
def _no_exit_is_success() -> Iterator[None]:
    """A program that has done its work returns; torch takes ``sys.exit(0)`` for success, wherever it is."""
    try:
        yield
    except SystemExit as stop:
        raise RuntimeError(f"it ended itself before it had finished: sys.exit({stop.code!r})") from stop


def _wait_for_forks(board: ProgressBoard) -> None:
    """Connect to nothing before all ranks of this attempt are forked on this node.

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


@contextlib.contextmanager
def _no_process_left_behind(daemon: mps.Daemon) -> Iterator[None]:
    """Adopt orphaned descendants (a killed rank's checkpoint worker), and end all that remain afterwards.

    Earlier children are spared, and so is the guard of ``daemon``, which ends it.
    """
    import psutil

    adopt_orphans()
    before = psutil.Process().children()
    try:
        yield
    finally:
        children = psutil.Process().children()
        new = [child for child in children if child not in before and child.pid != daemon.guard_id]
        remaining = [process for child in new for process in [child, *descendants(child.pid)]]
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(remaining, timeout=5)
