"""Cases beside each other: processes that a stop ends, whatever they do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tasks import clean
from tasks.suite import jobs
from tasks.suite.jobs import Job
from tasks.suite.steps import Step


@dataclass(frozen=True, kw_only=True)
class Code(Step):
    """A step that is a line of Python instead of a task."""

    code: str

    @property
    def argv(self) -> list[str]:
        return ["-c", self.code]


def started_since(before: set[psutil.Process]) -> list[psutil.Process]:
    """Processes that this one has now and had not: other tests may have left theirs running."""
    return [process for process in psutil.Process().children(recursive=True) if process not in before]


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl-C is not ignored, as it is where tests run with "&"."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def job(folder: Path, name: str, *lines: str) -> Job:
    steps = [Code(task="diff", arguments=(), code=line) for line in lines]
    return Job(case=name, steps=steps, run_dir=folder / name, quiet=True)


def output(one: Job) -> str:
    return (one.run_dir / jobs.OUTPUT_FILE).read_text()


def run(*all_jobs: Job, limit: int, ended=lambda job: True, began=lambda job: None) -> None:
    jobs.run(all_jobs, limit, began=began, ended=ended)


def test_steps_follow_each_other_and_their_output_is_kept(tmp_path: Path) -> None:
    one = job(tmp_path, "a", "print('this')", "import sys; print('that', file=sys.stderr)")
    run(one, limit=1)
    printed = [line for line in output(one).splitlines() if not line.startswith("$ python")]
    assert printed == ["this", "that"]
    assert one.codes == [0, 0]
    assert 0 < one.seconds < 60
    assert not clean.lock_file(one.run_dir).exists()


def test_its_lock_keeps_clean_away_between_two_steps_too(tmp_path: Path) -> None:
    lock = clean.lock_file(tmp_path / "a")
    looks = f"import pathlib; print(pathlib.Path({str(lock)!r}).exists())"
    one = job(tmp_path, "a", looks, looks)
    run(one, limit=1)
    assert [line for line in output(one).splitlines() if not line.startswith("$ ")] == ["True", "True"]


def test_the_output_of_a_case_alone_is_shown_at_once_and_not_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    one = job(tmp_path, "a", "print('this')")
    one.quiet = False
    run(one, limit=1)
    one.show_output()
    printed = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("$ python")]
    assert printed == ["this"]
    assert not one.run_dir.exists()


def test_a_step_that_fails_ends_its_case_alone(tmp_path: Path) -> None:
    failing = job(tmp_path, "a", "raise SystemExit(4)", "print('went on')")
    other = job(tmp_path, "b", "print('ran')")
    run(failing, other, limit=1)
    assert (failing.codes, failing.exit_code) == ([4], 4)
    assert output(other).endswith("ran\n")


@pytest.mark.parametrize(("kills", "code"), [((4, 5), 5), ((4, 4), 3)])
def test_a_step_that_the_kernel_killed_for_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: tuple[int, int], code: int
) -> None:
    counted = iter(kills)
    monkeypatch.setattr("tasks.machine.host_memory.kills", lambda: next(counted))
    one = job(tmp_path, "a", "import os; os.kill(os.getpid(), 9)")
    run(one, limit=1)
    assert one.exit_code == code
    assert ("tasks.diff was killed by the kernel, for lack of memory" in one.last_error()) == (code == 5)


def test_the_last_error_is_that_of_the_last_step(tmp_path: Path) -> None:
    one = job(tmp_path, "a", "print('error: old')", "print('error: this\\nerror: that'); raise SystemExit(2)")
    assert jobs.run_alone(one) == 2
    assert one.last_error() == "that"
    other = job(tmp_path, "b", "print('error: old')", "raise SystemExit(4)")
    assert jobs.run_alone(other) == 4
    assert other.last_error() == ""


def test_no_more_run_at_once_than_were_allowed(tmp_path: Path) -> None:
    running, most = set(), []

    def began(one: Job) -> None:
        running.add(one.case)
        most.append(len(running))

    def ended(one: Job) -> bool:
        running.remove(one.case)
        return True

    run(*(job(tmp_path, name, "pass") for name in "abcd"), limit=2, began=began, ended=ended)
    assert max(most) == 2
    assert len(most) == 4


def test_no_job_begins_after_ended_returned_false_but_the_others_end(tmp_path: Path) -> None:
    waits = (
        f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(.01)"
    )
    failing, beside, never = job(tmp_path, "a", "pass"), job(tmp_path, "b", waits), job(tmp_path, "c", "pass")

    def ended(one: Job) -> bool:
        (tmp_path / "go").touch()
        return one is not failing

    run(failing, beside, never, limit=2, ended=ended)
    assert beside.codes == [0]
    assert never.codes == []
    assert not never.run_dir.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_them_even_those_that_do_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(jobs, "STOP_WITHIN_S", 0.3)
    deaf = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    deaf += "print('deaf', flush=True); time.sleep(60)"
    first, second = job(tmp_path, "a", deaf), job(tmp_path, "b", "pass")
    seen: list[psutil.Process] = []

    def ended(one: Job) -> bool:
        assert one is second
        while not output(first).endswith("deaf\n"):
            time.sleep(0.01)
        seen.extend(started_since(before))
        os.kill(os.getpid(), number)
        return True

    before = {*psutil.Process().children(recursive=True)}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
        run(first, second, job(tmp_path, "c", "pass"), limit=2, ended=ended)
    assert len(seen) == 2
    _, alive = psutil.wait_procs(seen, timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not (tmp_path / "c").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_what_runs_is_asked_to_stop_before_it_is_killed(tmp_path: Path) -> None:
    asked = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('asked')))\n"
    first = job(tmp_path, "a", f"{asked}print('ready', flush=True); time.sleep(60)")

    def began(one: Job) -> None:
        if one is not first:
            while not output(first).endswith("ready\n"):
                time.sleep(0.01)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(first, job(tmp_path, "b", ""), limit=2, began=began)
    assert output(first).endswith("asked\n")


def test_what_is_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one = job(tmp_path, "a", "pass", "pass")
    run(one, limit=1, began=lambda one: os.kill(os.getpid(), signal.SIGINT))
    assert one.codes == [0, 0]


def test_an_error_on_the_way_leaves_no_process(tmp_path: Path) -> None:
    seen: list[psutil.Process] = []
    before = {*psutil.Process().children(recursive=True)}

    def began(one: Job) -> None:
        if one.case == "b":
            seen.extend(started_since(before))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(job(tmp_path, "a", "import time; time.sleep(60)"), job(tmp_path, "b", ""), limit=2, began=began)
    assert len(seen) == 1
    assert not seen[0].is_running()
