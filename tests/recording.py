"""Recording a card from finished runs, in a folder of a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.record import main
from tasks.records.card_store import card_path
from tests.fake_run import CASE


def record(
    root: Path, *runs: Path, yes: bool = False, reason: str = "because", metrics: Sequence[str] = ()
) -> int:
    """``python -m tasks.record`` with these runs; its exit code."""
    argv = [CASE, "--reason", reason, "--root", str(root)]
    argv += [part for run in runs for part in ("--from-run", str(run))]
    argv += [part for name in metrics for part in ("--metric", name)]
    return main(argv + ["--yes"] * yes)


def path_in(root: Path) -> Path:
    """The card that ``record`` writes."""
    return card_path(root, CASE, "lts", "cpu_x86_64")
