"""Training tasks forked from one parent: which, how they end, and that torch is imported once."""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.launch import imports, trainer
from tasks.launch.imports import ImportSettings
from tasks.launch.trainer import TrainerUnderTest
from tasks.machine import platforms
from tasks.suite import fork_server
from tasks.suite.fork_server import ForkServer
from tasks.suite.options import read_case_options, read_suite_options
from tasks.suite.steps import Step
from tasks.util.exits import SESSION_VARIABLE
from tasks.util.files import REPOSITORY
from tests.machines import ONE_H100, chosen
from tests.program import child_ends_with_its_killed_parent, forked, started_anew
from tests.short_run import SHORT

CASES = ["gpt3_pp4", "gpt3_pp4_resume"]
TRAIN = Step(task="train", arguments=("gpt3_pp4", "--run-dir", "nowhere"))


def options(*argv: str) -> argparse.Namespace:
    return read_suite_options(argv)


# ---- which cases ----


def test_cases_whose_ranks_need_the_same_share_a_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ForkServer(CASES, options()).cases == CASES
    env_vars = {"gpt3_pp4": {"A": "1"}, "other": {"A": "2"}, "gpt3_pp4_resume": {"A": "1"}}
    monkeypatch.setattr(fork_server, "load_case", lambda name, **_: SimpleNamespace(env_vars=env_vars[name]))
    assert ForkServer(list(env_vars), options()).cases == CASES


@pytest.mark.parametrize(
    "argv",
    [
        ["--retries", "1"],
        ["--baseline", "."],
        ["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "here:1", "--run-dir", "runs"],
    ],
)
def test_what_the_parent_cannot_import_for_the_ranks_is_started_anew(argv: list[str]) -> None:
    assert ForkServer(CASES, options(*argv)).cases == []


def test_another_training_program_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "choose", lambda _: TrainerUnderTest(loop=trainer.MEGATRON, name="theirs"))
    assert ForkServer(CASES, options("--megatron-lm", "somewhere")).cases == []


def test_on_gpus_everything_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "detect", lambda: chosen(ONE_H100))
    server = ForkServer(CASES, options())
    assert server.cases == []
    monkeypatch.setattr(fork_server, "preload", lambda wanted: pytest.fail("imported for nobody"))
    server.import_once()


def test_a_file_of_megatron_lm_is_started_anew() -> None:
    server = ForkServer(["gpt3_pp4"], read_case_options(["--case-file", "gpt3_pp4/model_config.yaml"]))
    assert server.cases == []


def test_a_case_with_a_wrong_setting_is_left_to_its_task_to_report() -> None:
    assert ForkServer(["gpt3_pp4"], options("--set", "micro-batch-size=0")).cases == []


def test_a_case_that_cannot_be_read_is_left_to_its_task_to_report() -> None:
    assert ForkServer(["gpt3_pp4", "no_such_case"], options()).cases == ["gpt3_pp4"]


def test_only_training_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_Forked", lambda step, output: "forked")
    monkeypatch.setattr(fork_server, "start_anew", lambda step, output: "anew")
    server = ForkServer(["gpt3_pp4"], options())
    diff = Step(task="diff", arguments=("gpt3_pp4",))
    assert [server.start(*each, None) for each in (("gpt3_pp4", TRAIN), ("gpt3_pp4", diff))] == [
        "forked",
        "anew",
    ]
    assert server.start("another", TRAIN, None) == "anew"


# ---- what is imported ----


def test_variables_are_in_force_for_the_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(fork_server, "preload", lambda wanted: seen.append(dict(os.environ)))
    before = dict(os.environ)
    ForkServer(CASES, options()).import_once()
    assert seen[0]["OMP_NUM_THREADS"] == "1"
    assert seen[0]["CUDA_DEVICE_MAX_CONNECTIONS"] == "1", "the case's own"
    assert dict(os.environ) == before


def test_where_the_import_fails_each_task_is_started_anew_and_tells_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(fork_server, "preload", lambda wanted: 1 // 0)
    before = dict(os.environ)
    server = ForkServer(CASES, options())
    server.import_once()
    assert server.cases == []
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert dict(os.environ) == before


def test_a_process_imports_for_one_kind_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ImportSettings(device="cpu", env_vars={"OMP_NUM_THREADS": "1"})
    monkeypatch.setattr(imports, "_done", [wanted])
    monkeypatch.setattr(imports.gc, "freeze", lambda: pytest.fail("done a second time"))
    imports.preload(ImportSettings(device="cpu", env_vars={"OMP_NUM_THREADS": "1"}))
    for other in (ImportSettings(device="cpu"), ImportSettings(device="cuda", env_vars=wanted.env_vars)):
        with pytest.raises(RuntimeError, match="has imported torch for"):
            imports.preload(other)


# ---- the forked process ----


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Callable[..., fork_server._Forked]:
    """Forks a process that does this instead of a task."""

    def forked(work: Callable[[], object], output: object = None) -> fork_server._Forked:
        monkeypatch.setattr(runpy, "run_module", lambda *_, **__: work())
        monkeypatch.setattr(fork_server, "new_random_state", lambda: None)  # it would import torch here
        return fork_server._Forked(TRAIN, output)

    return forked


def leave(code: int) -> Callable[[], object]:
    return lambda: sys.exit(code)


def test_exit_codes_are_those_of_a_new_process(fork, capfd: pytest.CaptureFixture) -> None:
    assert [fork(leave(code)).wait(20) for code in (0, 4)] == [0, 4]
    assert fork(lambda: 1 // 0).wait(20) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert fork(lambda: os.kill(os.getpid(), signal.SIGKILL)).wait(20) == -signal.SIGKILL


def test_what_it_says_goes_where_its_case_keeps_it(fork, tmp_path: Path) -> None:
    def say() -> None:
        line = f"{sys.argv} {os.environ[SESSION_VARIABLE]} {os.getsid(0) == os.getpid()}"
        os.write(1, f"{line}\n".encode())  # not sys.stdout, which is pytest's here
        os.write(2, b"that\n")

    with (tmp_path / "output").open("w") as file:
        assert fork(say, file).wait(20) == 0
    argv = ["tasks.train", *TRAIN.arguments]
    assert (tmp_path / "output").read_text() == f"{argv} {os.getpid()} True\nthat\n"


def test_the_task_itself_is_run_as_a_program() -> None:
    """The parent of a suite has not imported it: runpy would warn."""
    finished = started_anew("fork_server.exit_codes_of_a_task", variables={"PYTHONWARNINGS": "error"})
    assert "usage: python -m tasks.train" in finished.stdout
    assert finished.answer == [0, 2], finished.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_it_although_its_parent_only_notes_stops(fork, number: int) -> None:
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        forked = fork(lambda: time.sleep(60))
        with pytest.raises(subprocess.TimeoutExpired):
            forked.wait(0.2)
        assert forked.poll() is None
        if number == signal.SIGTERM:
            forked.terminate()
        else:
            os.kill(forked.pid, number)
        assert forked.wait(20) == (-number if number == signal.SIGTERM else 1)  # 1: KeyboardInterrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_stop_that_its_parent_ignores_it_ignores_too(fork) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert fork(lambda: sys.exit(signal.getsignal(signal.SIGINT) != signal.SIG_IGN)).wait(20) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_parent_takes_it_along() -> None:
    assert child_ends_with_its_killed_parent("fork_server.fork_and_wait")


def test_a_stop_between_the_fork_and_its_own_handlers_is_not_lost() -> None:
    finished = started_anew("fork_server.exit_code_of_a_stop_at_once")
    assert finished.answer == -signal.SIGTERM, finished.stderr


def test_what_nobody_seeds_is_not_the_same_in_two_phases() -> None:
    drawn = forked("fork_server.draws_of_two_tasks").stdout
    (seed, number), (other_seed, other_number) = (line.split() for line in drawn.splitlines())
    assert seed != other_seed
    assert number != other_number


# ---- for real ----

WHO_IMPORTS_TORCH = """
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            with open(os.environ["WHO"], "a") as file:
                print(os.getpid(), file=file)
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.training
def test_a_suite_imports_torch_in_one_process_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WHO_IMPORTS_TORCH)
    environment = {"CRASH_TEST_DEVICE": "cpu", "PYTHONPATH": str(tmp_path), "WHO": str(tmp_path / "who")}
    argv = ["--only", "gpt3_pp4", "--only", "gpt3_pp4_resume", "--run-dir", str(tmp_path / "runs"), *SHORT]
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.regress", *argv],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as suite:
        printed, _ = suite.communicate(timeout=300)
    assert suite.returncode == 1, printed  # four steps are not what the cards hold
    for case in CASES:
        for number in (1, 2):
            assert (tmp_path / f"runs/{case}/actual_phase{number}.json").is_file(), printed
    assert set((tmp_path / "who").read_text().split()) == {str(suite.pid)}
