"""Step 4: draw report.html and curves.png of a run: ``python -m tasks.report --run-dir DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks.util.exits import PASSED, exit_with


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.report",
        description="Draw report.html and curves.png of a run. "
        "Exit code: 0 drawn, whatever the verdict, 2 bad input.",
        allow_abbrev=False,
    )
    parser.add_argument("--run-dir", type=Path, required=True, help="the folder that tasks.train wrote")
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="CARD",
        help="compare with this card (default: as the last tasks.diff did)",
    )
    arguments = parser.parse_args()
    from tasks.reports.html import write_pictures

    for path in write_pictures(arguments.run_dir, golden_file=arguments.golden):
        print(path)
    return PASSED


if __name__ == "__main__":
    exit_with(main)
