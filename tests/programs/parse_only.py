"""Read command lines of modules or files as they would, and run nothing: those given, or lines on stdin.

Copied onto a PATH, so that it stands alone: it takes the repository from the folder in which it is run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

# A module with one of these reads its command line before it does anything.
PARSERS = ("ArgumentParser", "tasks.suite.options")


def _stopping(parse: Callable[..., object]) -> Callable[..., object]:
    def parse_and_stop(self: argparse.ArgumentParser, *arguments: object, **options: object) -> object:
        parse(self, *arguments, **options)
        raise SystemExit(0)

    return parse_and_stop


def read(argv: list[str]) -> None:
    """Run ``argv`` until it has read its command line, which raises ``SystemExit``: 0 if it is right."""
    sys.argv = list(argv)
    is_file = argv[0].endswith(".py")
    place = argv[0] if is_file else importlib.util.find_spec(argv[0]).origin
    text = Path(place).read_text()
    if not any(parser in text for parser in PARSERS):  # it would run instead
        raise SystemExit(f"{place}: has no command line that could be read without running it")
    if is_file:
        runpy.run_path(argv[0], run_name="__main__")
    else:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    raise SystemExit(f"{place}: read no command line")


def read_lines(lines: list[str]) -> None:
    """Read lines that begin with ``python -m``; the first that is wrong ends this."""
    for line in lines:
        argv = shlex.split(line)
        assert argv[:2] == ["python", "-m"], line
        try:
            read(argv[2:])
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = _stopping(argparse.ArgumentParser.parse_args)
    sys.path.insert(0, os.getcwd())
    if sys.argv[1:]:
        read(sys.argv[1:])
    read_lines(sys.stdin.read().splitlines())
