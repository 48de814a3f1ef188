"""Command-line options of a phase: declared once, for the tasks that train and for those that start them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tasks.launch import trainer
from tasks.machine import nodes

PHASE = ("set", "rank_plugin", "data_path", "hang_timeout", "max_restarts", "retries", *nodes.OPTIONS)


def add_case(parser: argparse.ArgumentParser) -> None:
    """The two ways to name one case."""
    parser.add_argument(
        "case", nargs="?", metavar="CASE", help="a folder of test_cases/, or the path of a case file"
    )
    parser.add_argument(
        "--case-file",
        metavar="PATH",
        type=Path,
        help="instead of CASE: a model_config.yaml of Megatron-LM's functional tests, its cards beside it",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the training, and of the trainer under test."""
    parser.add_argument(
        "--set",
        metavar="FLAG=VALUE",
        action="append",
        default=[],
        help="change a Megatron flag of the case: --set train-iters=60 (repeatable)",
    )
    parser.add_argument(
        "--data-path",
        metavar="PREFIX",
        type=Path,
        help="train on this Megatron dataset (PREFIX.bin, PREFIX.idx) instead of the case's text",
    )
    parser.add_argument(
        "--rank-plugin",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="Python executed in every rank before the model is built (repeatable)",
    )
    parser.add_argument(
        "--hang-timeout",
        metavar="SECONDS",
        type=float,
        help="no progress of any rank for so long is a hang (default: 10 times the slowest step, and at least"
        " 60)",
    )
    parser.add_argument(
        "--max-restarts",
        metavar="N",
        type=int,
        help="start failed ranks again up to N times within a phase (default: once for each kill that the"
        " case asks for, so never for most)",
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=0,
        help="retry a phase up to N times after an infrastructure failure: a broken connection, a port taken,"
        " a killed process (default: 0)",
    )
    trainer.add_options(parser)
    nodes.add_options(parser)


def add_phase_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of a task that trains."""
    add_case(parser)
    parser.add_argument("--run-dir", metavar="DIR", type=Path, required=True, help="where the run is kept")
    add_options(parser)


def argv(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of the named options that differ from their defaults, as a command line again."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = {name: getattr(options, name) for name in names}
    return [
        word
        for name, value in given.items()
        if value != parser.get_default(name)
        for each in (value if isinstance(value, list) else [value])
        for word in (f"--{name.replace('_', '-')}", str(each))
    ]
