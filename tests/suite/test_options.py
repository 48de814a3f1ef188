"""The options of one case and of several."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.machine import platforms
from tasks.suite.options import read_case_options, read_suite_options
from tasks.util.exits import UsageError

SEVERAL = ["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "127.0.0.1:29400"]


def test_a_single_case_and_several_share_what_a_run_takes() -> None:
    argv = ["--set", "lr=1", "--rank-plugin", "p.py", "--run-dir", "here"]
    alone, several = read_case_options(["first", *argv]), read_suite_options(argv)
    assert alone.set == several.set == ["lr=1"]
    assert alone.rank_plugin == several.rank_plugin == [Path("p.py")]
    assert several.jobs == 1
    assert not hasattr(alone, "jobs")


def test_the_options_of_a_suite_are_none_of_a_case() -> None:
    options = read_suite_options(["--jobs", "1", "--only", "a", "--fail-fast", "--require", "--retries", "1"])
    assert (options.only, options.fail_fast, options.require, options.retries) == (["a"], True, True, 1)
    for option in (["--jobs", "1"], ["--only", "a"], ["--fail-fast"], ["--list"], ["--json"]):
        with pytest.raises(SystemExit):
            read_case_options(["first", *option])


@pytest.mark.parametrize("read", [read_suite_options, lambda argv: read_case_options(["first", *argv])])
def test_a_value_of_the_wrong_type_is_bad_usage_before_anything_runs(
    read: Callable[[list[str]], argparse.Namespace], capsys: pytest.CaptureFixture
) -> None:
    for option in ("--retries", "--max-restarts", "--hang-timeout", "--nnodes"):
        with pytest.raises(SystemExit) as stop:
            read([option, "soon"])
        assert stop.value.code == 2
        assert f"argument {option}: invalid" in capsys.readouterr().err


def test_help_names_the_command_that_people_gave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("NOX_CURRENT_SESSION", raising=False)
    for session, program in ((None, "python -m tasks.run"), ("first", "nox -s first --")):
        if session:
            monkeypatch.setenv("NOX_CURRENT_SESSION", session)
        with pytest.raises(SystemExit) as stop:
            read_case_options(["--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {program} [-h]")


def test_json_is_a_form_of_the_list() -> None:
    assert read_suite_options(["--list", "--json"]).json
    with pytest.raises(UsageError, match="--json: only with --list"):
        read_suite_options(["--json"])


def test_several_machines_need_a_folder_that_all_see() -> None:
    with pytest.raises(UsageError, match="give --run-dir DIR"):
        read_case_options(["first", *SEVERAL])
    assert read_case_options(["first", *SEVERAL, "--run-dir", "shared"]).nodes.several


def test_a_file_of_megatron_lm_is_a_case_of_its_own() -> None:
    assert read_case_options(["--case-file", "file.yaml"]).case_file
    with pytest.raises(UsageError, match="--case-file: it is one case of its own"):
        read_suite_options(["--case-file", "file.yaml"])
    with pytest.raises(UsageError, match="is another case than first"):
        read_case_options(["first", "--case-file", "x"])
    with pytest.raises(UsageError, match="give the file: nox -s case -- --case-file PATH"):
        read_case_options([])


PATHS = ["--run-dir", "--case-file", "--megatron-lm"]  # an empty path is the current directory


@pytest.mark.parametrize(
    "option", [*PATHS, "--data-path", "--baseline", "--retries", "--set", "--rank-plugin", "--subject"]
)
def test_an_empty_value_is_bad_usage(option: str) -> None:
    for argv in ([option, ""], [f"{option}="]):
        with pytest.raises(UsageError, match=f"^{option}: is empty"):
            read_case_options(["first", *argv])
    assert read_case_options(["first", "--set=lr="]).set == ["lr="]


# ---- several cases ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--jobs", "-1"], "--jobs -1: must be at least 1"),
        (["--rerun-failed", "--only", "a"], "--rerun-failed and --only: give one of them"),
    ],
)
def test_options_that_do_not_go_together_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_suite_options(argv)


@pytest.mark.parametrize("argv", [["--jobs", "2"], ["--rerun-failed"]])
def test_several_machines_run_one_named_case_after_the_other(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "on_gpus", lambda: False)
    read_suite_options(argv)
    with pytest.raises(UsageError, match="not on several machines"):
        read_suite_options([*argv, *SEVERAL, "--run-dir", "shared"])


def test_cases_never_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "on_gpus", lambda: True)
    read_suite_options(["--jobs", "1"])
    with pytest.raises(UsageError, match="--jobs 2: not on GPUs"):
        read_suite_options(["--jobs", "2"])
