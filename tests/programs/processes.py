"""Processes that end with their parent, wait, or start others; tests kill or stop them."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import NoReturn

import psutil

from tasks.util.exits import SESSION_VARIABLE, run_to_end
from tasks.util.processes import end_with_parent

SLEEP = ["sleep", "60"]
PR_GET_PDEATHSIG = 2  # linux/prctl.h
# A stranger to faulthandler: SIGUSR1 would end it.
STRANGER = [sys.executable, "-c", r"import os, time; os.write(1, b'ready\n'); time.sleep(60)"]
WITH_CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '9']).pid, flush=True); time.sleep(9)"
ORPHANING = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"


def end_signal() -> int:
    """The signal that this process gets when its parent ends; 0 for none."""
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def end_with(number: int, parent: str) -> int:
    """The signal that is asked for, where the parent is this process's own, gone, or not known."""
    parents = {"own": os.getppid(), "gone": os.getpid(), "unknown": None}
    end_with_parent(number, parent=parents[parent])
    return end_signal()


def start_a_task() -> None:
    """Start a task as a session does, and wait for it."""
    task = [sys.executable, "-m", "tests.programs", "processes.be_a_task", "[]", os.devnull]
    subprocess.run(task, env={**os.environ, SESSION_VARIABLE: str(os.getpid())}, check=False)


def be_a_task() -> None:
    """A task that does not end by itself."""
    run_to_end(lambda: print("ready", flush=True) or time.sleep(60))


def wait_for_a_message(stacks: str) -> None:
    """A rank that gives its stack when it is asked, and otherwise waits."""
    faulthandler.register(signal.SIGUSR1, file=open(stacks, "w"), all_threads=True)  # noqa: SIM115
    print("ready", flush=True)
    time.sleep(60)


def wait_beside_others(stacks: str) -> None:
    """A rank that waits, a process that it forked and that waits elsewhere, and a stranger."""
    faulthandler.register(signal.SIGUSR1, file=open(stacks, "w"), all_threads=True)  # noqa: SIM115
    if os.fork() == 0:
        deadlocked_writer()
    subprocess.Popen(STRANGER)
    waits_for_its_writer()


def deadlocked_writer() -> NoReturn:
    """Wait as a checkpoint writer that never gets on."""
    os.write(1, b"ready\n")
    time.sleep(60)
    os._exit(0)


def waits_for_its_writer() -> None:
    """Wait as a rank that has forked one."""
    os.write(1, b"ready\n")
    time.sleep(60)


def run_with_retries() -> None:
    """Run, as a task does that is tried again, a child that decides its exit code itself."""
    from tasks.launch.retries import _run

    sys.exit(_run([sys.executable, "-m", "tests.programs", "processes.exit_by_signal", "[]", os.devnull]))


def exit_by_signal() -> None:
    """Exit with 7 at a SIGTERM, with 8 at a Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(8))
    print("ready", flush=True)
    time.sleep(60)


def hold_a_daemon(seconds: float) -> None:
    """Hold the MPS daemon of a run."""
    from tasks.machine import mps

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run with "&"
    with mps.daemon(wanted=True) as daemon:
        print(daemon.join(print), os.environ.get(mps.PIPES), flush=True)
        time.sleep(seconds)


def leave_processes() -> list[str]:
    """Names of the processes that run after a launch that an interrupt has ended."""
    from tasks.launch import agent

    before, daemon = subprocess.Popen(SLEEP), SimpleNamespace(guard_id=None)
    ids = {"before": before.pid}
    try:
        with agent._no_process_left_behind(daemon):
            guard = subprocess.Popen(SLEEP)
            daemon.guard_id = guard.pid
            child = subprocess.Popen([sys.executable, "-c", WITH_CHILD], stdout=subprocess.PIPE, text=True)
            orphaning = subprocess.run([sys.executable, "-c", ORPHANING], stdout=subprocess.PIPE, check=True)
            ids |= {"guard": guard.pid, "child": child.pid, "grandchild": int(child.stdout.readline())}
            ids["orphan"] = int(orphaning.stdout)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    running = [name for name, number in ids.items() if _runs(number)]
    before.kill()
    guard.kill()
    return running


def _runs(number: int) -> bool:
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE
