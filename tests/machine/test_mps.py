"""The MPS daemon of a run, against a control program that only pretends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.machine import mps
from tasks.util.files import REPOSITORY
from tests.program import command_of

CONTROL = f"""#!{sys.executable}
import os, pathlib, subprocess, sys, time
pipes = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
notes = pathlib.Path(os.environ["FAKE_NOTES"])
if "-f" in sys.argv:
    (notes / "environment").write_text(repr(dict(os.environ)))
    if os.environ.get("FAKE_FAILS"):
        print("the GPU cannot do that", flush=True)
        sys.exit(1)
    (notes / "control.pid").write_text(str(os.getpid()))
    if os.environ.get("FAKE_SLOW"):
        while not (pipes / "quit").exists():
            time.sleep(0.01)
        sys.exit(0)
    (pipes / "control").touch()
    server = None
    while not (pipes / "quit").exists():
        if server is None and (pipes / "start").exists():
            server = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            (notes / "server.pid").write_text(str(server.pid))
            (pipes / "server").write_text(str(server.pid))
        time.sleep(0.01)
    server.kill()
    server.wait()
    (notes / "quit").touch()
    sys.exit(0)
for line in sys.stdin:
    if line.startswith("start_server"):
        (pipes / "start").touch()
    elif line.startswith("get_server_list"):
        print((pipes / "server").read_text() if (pipes / "server").exists() else "")
    elif line.startswith("quit"):
        (pipes / "quit").touch()
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control program on PATH; returns the folder of its notes."""
    program = tmp_path / "bin" / mps.CONTROL
    program.parent.mkdir()
    program.write_text(CONTROL)
    program.chmod(0o755)
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_NOTES", str(notes))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in (mps.SWITCH, mps.PIPES, mps.LOGS, "FAKE_FAILS", "FAKE_SLOW"):
        monkeypatch.delenv(name, raising=False)
    return notes


@pytest.fixture
def reported() -> list[str]:
    """Lines of the daemon's handle for the user."""
    return []


def alive(process_id: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def wait_until(condition: object, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def process_ids(notes: Path) -> list[int]:
    return [int((notes / name).read_text()) for name in ("control.pid", "server.pid")]


@contextlib.contextmanager
def launcher() -> Iterator[subprocess.Popen]:
    """A process that holds a ready daemon until it is killed."""
    command = command_of("processes.hold_a_daemon", [60], Path(os.devnull))
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().startswith("True ")
            yield process
        finally:
            process.kill()


def test_daemon_serves_while_the_context_lasts(control: Path, tmp_path: Path, reported: list[str]) -> None:
    with mps.daemon(wanted=True) as daemon:
        assert daemon.join(reported.append)
        folder = Path(os.environ[mps.PIPES])
        assert folder.parent == tmp_path
        assert os.environ[mps.LOGS] == str(folder)
        assert all(map(alive, process_ids(control)))
        assert os.getsid(daemon.guard_id) == daemon.guard_id, "where a Ctrl-C of the terminal does not come"
    assert reported == []
    assert (control / "quit").exists()
    assert not any(map(alive, process_ids(control)))
    assert not folder.exists()
    assert mps.PIPES not in os.environ


def test_ends_when_the_context_is_left_by_an_error(control: Path) -> None:
    def interrupted() -> None:
        with mps.daemon(wanted=True) as daemon:
            daemon.join(print)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(map(alive, process_ids(control)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ends_with_its_launcher(control: Path, tmp_path: Path, number: int) -> None:
    with launcher() as process:
        running = process_ids(control)
        process.send_signal(number)
        process.wait(timeout=20)
        assert wait_until(lambda: not any(map(alive, running)))
        assert wait_until(lambda: not list(tmp_path.glob("mps-*")))


def test_a_guard_that_is_stopped_ends_the_daemon(control: Path, tmp_path: Path) -> None:
    with mps.daemon(wanted=True) as daemon:
        assert daemon.join(print)
        running = process_ids(control)
        os.kill(daemon.guard_id, signal.SIGTERM)
        assert wait_until(lambda: not any(map(alive, running)))
        assert wait_until(lambda: not list(tmp_path.glob("mps-*")))


def test_a_guard_that_is_stopped_while_it_waits_reports_it(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    monkeypatch.setenv("FAKE_SLOW", "1")
    with mps.daemon(wanted=True) as daemon:
        note = control / "control.pid"
        assert wait_until(lambda: note.exists() and note.read_text())
        os.kill(daemon.guard_id, signal.SIGTERM)
        assert not daemon.join(reported.append)
    assert reported == ["note: CUDA MPS did not start: it was stopped"]
    assert wait_until(lambda: not alive(int(note.read_text())))


def test_server_of_a_killed_daemon_is_ended(control: Path, tmp_path: Path) -> None:
    with mps.daemon(wanted=True) as daemon:
        daemon.join(print)
        control_id, server_id = process_ids(control)
        os.kill(control_id, signal.SIGKILL)
    assert wait_until(lambda: not alive(server_id))
    assert not list(tmp_path.glob("mps-*"))


def test_daemon_runs_without_the_preloaded_library(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = sorted(Path("/").glob("lib*/x86_64-linux-gnu/libm.so.6"))
    if not libraries:
        pytest.skip("no library to preload was found")
    monkeypatch.setenv("LD_PRELOAD", str(libraries[0]))
    with mps.daemon(wanted=True) as daemon:
        assert daemon.join(print)
    assert "LD_PRELOAD" not in (control / "environment").read_text()


def test_goes_on_without_a_daemon_that_fails(
    control: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "1")
    monkeypatch.setenv(mps.LOGS, "/tmp/theirs")
    with mps.daemon(wanted=True) as daemon:
        assert not daemon.join(reported.append)
        assert mps.PIPES not in os.environ
        guard = daemon.guard_id
        daemon.renew(reported.append)
        assert daemon.guard_id == guard, "it would fail again, for each kill"
    assert os.environ[mps.LOGS] == "/tmp/theirs"
    assert len(reported) == 1
    assert "did not start" in reported[0]
    assert "ended with exit code 1: the GPU cannot do that" in reported[0]


def test_a_daemon_of_the_user_is_used_and_left_alone(
    control: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    monkeypatch.setenv(mps.PIPES, "/tmp/theirs")
    monkeypatch.setenv(mps.LOGS, "/tmp/theirs")
    with mps.daemon(wanted=True) as daemon:
        assert not daemon.join(reported.append)
    assert "left as it is" in reported[0]
    assert os.environ[mps.PIPES] == "/tmp/theirs"
    assert not list(control.iterdir())


def test_switched_off(control: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]) -> None:
    monkeypatch.setenv(mps.SWITCH, "off")
    with mps.daemon(wanted=True) as daemon:
        assert not daemon.join(reported.append)
    assert "take turns" in reported[0]
    assert not list(control.iterdir())


def test_no_control_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not on PATH" in mps.obstacle({})


def test_nothing_is_started_renewed_or_reported_where_none_is_wanted(
    control: Path, reported: list[str]
) -> None:
    with mps.daemon(wanted=False) as daemon:
        assert not daemon.join(reported.append)
        daemon.renew(reported.append)
        assert daemon.guard_id is None
    assert reported == []
    assert not list(control.iterdir())


def test_renewed_daemon_is_another_one(control: Path, tmp_path: Path, reported: list[str]) -> None:
    with mps.daemon(wanted=True) as daemon:
        daemon.join(reported.append)
        folder, first = os.environ[mps.PIPES], process_ids(control)
        (control / "quit").unlink(missing_ok=True)
        daemon.renew(reported.append)
        assert os.environ[mps.PIPES] == os.environ[mps.LOGS] != folder
        second = process_ids(control)
        assert not any(map(alive, first))
        assert all(map(alive, second))
    assert reported == []
    assert not any(map(alive, second))
    assert not list(tmp_path.glob("mps-*"))
    assert mps.PIPES not in os.environ


def test_goes_on_without_a_daemon_that_cannot_be_renewed(
    control: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    with mps.daemon(wanted=True) as daemon:
        daemon.join(reported.append)
        monkeypatch.setenv("FAKE_FAILS", "1")
        daemon.renew(reported.append)
        assert mps.PIPES not in os.environ
    assert len(reported) == 1
    assert "did not start" in reported[0]


def test_the_users_daemon_is_left_after_a_kill(
    control: Path, monkeypatch: pytest.MonkeyPatch, reported: list[str]
) -> None:
    for name in (mps.PIPES, mps.LOGS):
        monkeypatch.setenv(name, "/somewhere")
    with mps.daemon(wanted=True) as daemon:
        daemon.renew(reported.append)
    assert "take turns" in reported[0]
    assert mps.PIPES not in os.environ
    assert mps.LOGS not in os.environ
    assert not list(control.iterdir())
