"""Keep the checkpoint of a finished training in the repository, for a case of type ``frozen-resume``.

``python -m tasks.frozen CASE --from-run DIR --reason TEXT``, after
``python -m tasks.train CASE --from-start --run-dir DIR``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks.cases.loader import load_case
from tasks.records.kept_checkpoint import TYPE, folder_of, keep
from tasks.util.exits import PASSED, UsageError, exit_with
from tasks.util.files import read_json_object


def main(argv: list[str] | None = None) -> int:
    """Keep a checkpoint.

    Raises:
        UsageError: see ``keep``; or a run of another case.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tasks.frozen", description="Keep the checkpoint of a training in the repository."
    )
    parser.add_argument("case", metavar="CASE", help="name of a case of type frozen-resume")
    parser.add_argument(
        "--from-run", type=Path, metavar="DIR", required=True, help="what tasks.train --from-start wrote"
    )
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why; it is kept with the checkpoint")
    arguments = parser.parse_args(argv)
    content = read_json_object(arguments.from_run / "case.json")
    case = load_case(arguments.case, platform_name=str(content.get("platform")))
    if case.test_type != TYPE or content.get("case_name") != case.name:
        raise UsageError(f"{arguments.from_run}: holds a run of {content.get('case_name')}; {TYPE} is wanted")
    size = keep(arguments.from_run, folder_of(case), arguments.reason)
    print(f"kept: {folder_of(case)}, {size / 2**20:.1f} MiB; its golden cards are to be recorded anew")
    return PASSED


if __name__ == "__main__":
    exit_with(main)
