"""Options that are given behind nox's ``--``."""

from __future__ import annotations

import argparse

import pytest

from tasks.suite.options import read_session_options, read_suite_options
from tasks.util.exits import UsageError


def test_a_single_case_and_several_share_what_a_run_takes() -> None:
    words = ["--set", "lr=1", "--rank-plugin", "p.py", "--run-dir", "here"]
    alone, several = read_session_options("first", words), read_session_options("regress", words)
    assert alone.set == several.set == ["lr=1"]
    assert several.jobs == 1
    assert not hasattr(alone, "jobs")


def test_the_task_takes_what_its_session_hands_on_and_no_option_of_the_session_alone() -> None:
    words = ["--jobs", "1", "--only", "a", "--fail-fast", "--require", "--retries", "1"]
    options = read_suite_options(argparse.ArgumentParser(), words)
    assert (options.only, options.fail_fast, options.require, options.retries) == (["a"], True, True, "1")
    for word in ("--dry-run", "--list", "--json"):
        with pytest.raises(SystemExit):
            read_suite_options(argparse.ArgumentParser(), [word])


def test_json_is_a_form_of_the_list() -> None:
    assert read_session_options("regress", ["--list", "--json"]).json
    with pytest.raises(UsageError, match="--json: only with --list"):
        read_session_options("regress", ["--json"])


def test_several_machines_need_a_folder_that_all_see() -> None:
    words = ["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "127.0.0.1:29400"]
    with pytest.raises(UsageError, match="give --run-dir DIR"):
        read_session_options("first", words)
    assert read_session_options("first", [*words, "--run-dir", "shared"]).nodes.several


def test_a_file_of_megatron_lm_is_no_choice_among_our_cases() -> None:
    assert read_session_options("case", ["--case-file", "file.yaml"]).case_file
    with pytest.raises(UsageError, match="--case-file: it is one case of its own"):
        read_session_options("regress", ["--case-file", "file.yaml"])


PATHS = ["--run-dir", "--case-file", "--megatron-lm"]  # no letters were the folder that nox runs in


@pytest.mark.parametrize(
    "option", [*PATHS, "--data-path", "--baseline", "--retries", "--set", "--rank-plugin", "--subject"]
)
def test_what_is_given_as_nothing_is_not_left_out_in_silence(option: str) -> None:
    for words in ([option, ""], [f"{option}="]):
        with pytest.raises(UsageError, match=f"^{option}: is empty"):
            read_session_options("case", words)
    assert read_session_options("case", ["--set=lr="]).set == ["lr="]


def test_a_case_file_is_no_option_of_another_case() -> None:
    assert read_session_options("case", ["--case-file", "x"]).case_file
    with pytest.raises(UsageError, match="is another case than first"):
        read_session_options("first", ["--case-file", "x"])
