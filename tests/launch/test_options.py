"""The options of a phase, and their command line again."""

from __future__ import annotations

import argparse

import pytest

from tasks.launch import trainer
from tasks.launch.options import PHASE, add_options, add_phase_arguments, argv
from tasks.machine import nodes


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(argv)


def test_options_are_handed_on_as_they_were_given() -> None:
    given = ["--set", "lr=1", "--set", "seed=2", "--rank-plugin", "p.py", "--data-path", "d"]
    given += ["--hang-timeout", "9.5", "--max-restarts", "0", "--retries", "1", "--nnodes", "2"]
    given += ["--node-rank", "0", "--rdzv-endpoint", "node0:29400", "--node-timeout", "5.0"]
    assert argv(parsed(*given), PHASE) == given
    assert argv(parsed(*given), nodes.OPTIONS) == given[-8:]
    chosen = ["--megatron-lm", "theirs", "--trainer", "megatron", "--subject", "mine"]
    assert argv(parsed(*chosen), trainer.OPTIONS) == chosen


def test_defaults_are_not_handed_on() -> None:
    assert argv(parsed("--retries", "0"), [*PHASE, *trainer.OPTIONS]) == []


@pytest.mark.parametrize("add", [add_options, add_phase_arguments])
def test_every_option_can_be_handed_on(add) -> None:
    """``argv`` names all options but those that name the case and its run directory."""
    parser = argparse.ArgumentParser()
    add(parser)
    names = set(vars(parser.parse_args(["--run-dir", "x"] if add is add_phase_arguments else [])))
    assert names - {"case", "case_file", "run_dir"} == {*PHASE, *trainer.OPTIONS}
