"""Remove old run directories; keep the newest, and any that a process still uses."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tasks.records.run_lock import is_locked, is_running, lock_file
from tasks.util.exits import UsageError, exit_with

RUNS = Path(__file__).resolve().parent.parent / "runs"


def prunable(runs: Path, keep: int) -> list[Path]:
    """Run directories of every case beyond its ``keep`` newest, oldest first, without those still running.

    A folder directly below ``runs`` that is itself a run (``--run-dir runs/mine``) or holds a regress is not
    a case's, and stays.
    """
    found = []
    for case_dir in sorted(path for path in runs.glob("*") if path.is_dir() and not _is_no_case(path)):
        run_dirs = [path for path in case_dir.iterdir() if path.is_dir() and not path.is_symlink()]
        run_dirs.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        found += [run_dir for run_dir in run_dirs[: max(0, len(run_dirs) - keep)] if not is_running(run_dir)]
    return found


def _is_no_case(path: Path) -> bool:
    return any((path / name).exists() for name in ("case.json", "regress.json")) or is_locked(lock_file(path))


def main() -> int:
    """``python -m tasks.clean --keep 5``."""
    parser = argparse.ArgumentParser(prog="python -m tasks.clean", description="Remove old run directories.")
    parser.add_argument("--keep", type=int, default=5, help="how many of each case stay (default: 5)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where they are (default: runs)")
    parser.add_argument("--dry-run", action="store_true", help="only list them")
    arguments = parser.parse_args()
    if arguments.keep < 0:
        raise UsageError(f"--keep {arguments.keep}: must be at least 0")
    if arguments.runs != RUNS and not arguments.runs.is_dir():
        raise UsageError(f"--runs {arguments.runs}: no such folder")
    doomed = prunable(arguments.runs, arguments.keep)
    for run_dir in doomed:
        print(f"{'would remove' if arguments.dry_run else 'removing'} {run_dir}")
        if not arguments.dry_run:
            shutil.rmtree(run_dir)
            lock_file(run_dir).unlink(missing_ok=True)
    print(f"{len(doomed)} run directories {'to remove' if arguments.dry_run else 'removed'}")
    return 0


if __name__ == "__main__":
    exit_with(main)
