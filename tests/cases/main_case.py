"""The main case's command line with changes, parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tasks.cases.flags import parse_arguments
from tasks.cases.loader import load_case

ARGV = load_case("gpt3_pp4_resume", platform_name="dgx_a100").argv()


def without(flag: str, *, values: int = 1) -> list[str]:
    """The command line without a flag and its values."""
    place = ARGV.index(flag)
    return [*ARGV[:place], *ARGV[place + 1 + values :]]


def parsed(*more: str, argv: Sequence[str] = ARGV, world_size: int = 8) -> argparse.Namespace:
    """Arguments of the main case with more flags."""
    return parse_arguments([*argv, *more], world_size=world_size)
