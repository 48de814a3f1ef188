"""Packages of ``tasks``, and the direction of their imports."""

from __future__ import annotations

COMMANDS = "commands"  # modules of tasks/ itself
# Each package, and the others that it may import. docs/architecture.md draws the same.
ALLOWED = {
    "util": set(),
    "cases": {"util"},
    "machine": {"util"},
    "records": {"cases", "machine", "util"},
    "judge": {"records", "cases", "machine", "util"},
    "reports": {"judge", "records", "cases", "machine", "util"},
    "launch": {"records", "cases", "machine", "util"},
    "suite": {"launch", "reports", "judge", "records", "cases", "machine", "util"},
    "ranks": {"records", "cases", "machine", "util"},
    COMMANDS: {"suite", "launch", "reports", "judge", "records", "cases", "machine", "util", COMMANDS},
}
