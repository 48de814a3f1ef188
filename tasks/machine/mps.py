"""CUDA MPS for a run: the run starts its own daemon, so that ranks that share a GPU use it at the same time.

A guard process (this file, run as a program) owns the daemon. It runs in its own session, where Ctrl-C does
not reach it, and ends the daemon when the launcher releases it or ends in any way: the kernel signals that.
A daemon that was running before is never touched: the guard's has its own folder. The guard imports the
standard library only, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SWITCH = "CRASH_TEST_MPS"  # off: ranks take turns on their GPU
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
CONTROL = "nvidia-cuda-mps-control"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Daemon:
    """The launcher's handle: a guard that starts a daemon, or the reason why there is none."""

    def __init__(self, guard: subprocess.Popen[str] | None, note: str | None) -> None:
        self._guard = guard
        self._note = note

    def join(self, say: Callable[[str], None]) -> bool:
        """Wait until the daemon serves and direct later processes to it; False without a daemon."""
        if self._guard is not None and self._note is None:
            answer = self._guard.stdout.readline().strip()
            word, _, rest = answer.partition(" ")
            if word == "ready":
                os.environ |= {PIPES: rest, LOGS: rest}
                return True
            self._note = f"CUDA MPS did not start: {rest or 'its guard ended'}"
        if self._note:
            say(f"note: {self._note}")
        return False

    @property
    def guard_id(self) -> int | None:
        """The guard's process id, None without one."""
        return None if self._guard is None else self._guard.pid

    def renew(self, say: Callable[[str], None]) -> None:
        """Start another daemon for later processes, after a process that used this one was killed.

        A killed process takes the MPS server with it: later ones get "device busy" for as long as the daemon
        lives (seen on an H100, for 60 s). The user's own daemon is left running.
        """
        if self._guard is not None and self._note is None:
            self.stop()
            self._guard = _start_guard()
            self.join(say)
        elif self._note and os.environ.get(PIPES):
            say(f"note: ranks that are started again leave the CUDA MPS daemon of {PIPES}, and take turns")
            _point_nowhere()

    def stop(self) -> None:
        """End the daemon; returns when it has ended."""
        if self._guard is None:
            return
        self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout=2 * STOP_TIMEOUT_S)
        self._guard.stdout.close()
        if os.environ.get(PIPES) == os.environ.get(LOGS):  # else they are the user's
            _point_nowhere()


def _point_nowhere() -> None:
    """Later processes use no daemon."""
    for name in (PIPES, LOGS):
        os.environ.pop(name, None)


@contextlib.contextmanager
def daemon(*, wanted: bool) -> Iterator[Daemon]:
    """A daemon for as long as the context lasts, where one is ``wanted`` and can be had.

    It gets ready in the background; call ``join`` before processes that are to use it are started.
    """
    note = obstacle(os.environ) if wanted else None
    guard = _start_guard() if wanted and note is None else None
    held = Daemon(guard, note)
    try:
        yield held
    finally:
        held.stop()


def obstacle(environ: dict[str, str] | os._Environ[str]) -> str | None:
    """The reason why the run starts no daemon, or None."""
    slower = "ranks take turns on their GPU, which is several times slower"
    if environ.get(SWITCH) == "off":
        return f"{SWITCH}=off: {slower}"
    if environ.get(PIPES):
        return f"the CUDA MPS daemon of {PIPES}={environ[PIPES]} is used, and left as it is"
    if shutil.which(CONTROL) is None:
        return f"no CUDA MPS ({CONTROL} is not on PATH): {slower}"
    return None


def _start_guard() -> subprocess.Popen[str]:
    # Without LD_PRELOAD: libraries preloaded for ranks do not belong in the daemon.
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=True,
    )


def guard(launcher: int) -> None:
    """Start a daemon, print ``ready FOLDER`` or ``failed REASON``, and end it when the launcher ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # the daemon's servers come to the guard when the daemon dies
    # Noted, not raised: raised, a signal could arrive just as the daemon is being ended, and leave it behind.
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: stops.append(number))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        return
    folder = tempfile.mkdtemp(prefix="mps-")  # sockets lie in it: its path must be short, a run's may be long
    environ = {**os.environ, PIPES: folder, LOGS: folder}
    control = None
    try:
        with Path(folder, "stdout.log").open("w") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            control = subprocess.Popen([CONTROL, "-f"], **streams, env=environ)
        problem = _wait_until_it_serves(control, environ, stops)
        _say(f"failed {problem}" if problem else f"ready {folder}")
        if problem is None:
            _wait_for_launcher(launcher, stops)
    finally:
        if control is not None:
            _end(control, environ)
        shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _wait_until_it_serves(control: subprocess.Popen, environ: dict[str, str], stops: list[int]) -> str | None:
    """Start a server and wait for it; the error, or None."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not stops:
        if control.poll() is not None:
            return f"{CONTROL} ended with exit code {control.returncode}: {_last_line(environ)}"
        if Path(environ[PIPES], "control").exists():
            _ask(f"start_server -uid {os.getuid()}", environ)
            if _ask("get_server_list", environ).strip().isdigit():
                return None
        time.sleep(0.1)
    if stops:
        return "it was stopped"
    return f"no server within {START_TIMEOUT_S:.0f} s: {_last_line(environ)}"


def _last_line(environ: dict[str, str]) -> str:
    lines = []
    for name in ("stdout.log", "control.log"):
        path = Path(environ[LOGS], name)
        lines += path.read_text(errors="replace").split("\n") if path.is_file() else []
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1] if lines else "no output"


def _ask(command: str, environ: dict[str, str]) -> str:
    options = {"input": f"{command}\n", "capture_output": True, "text": True, "env": environ}
    try:
        return subprocess.run([CONTROL], **options, timeout=STOP_TIMEOUT_S, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def _wait_for_launcher(launcher: int, stops: list[int]) -> None:
    """Wait until the launcher closes its end of standard input or ends, or a signal arrives."""
    while os.getppid() == launcher and not stops:
        if select.select([sys.stdin], [], [], 0.2)[0] and not os.read(0, 1):
            return


def _end(control: subprocess.Popen, environ: dict[str, str]) -> None:
    """Ask the daemon to quit, then kill its remaining processes."""
    if control.poll() is None:
        _ask(f"quit -t {STOP_TIMEOUT_S / 2:.0f}", environ)
        with contextlib.suppress(subprocess.TimeoutExpired):
            control.wait(timeout=STOP_TIMEOUT_S)
    while remaining := _children():
        for process_id in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    guard(int(sys.argv[1]))
