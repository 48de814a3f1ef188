"""Build the dataset of a case, or check the one that is there: ``python -m tasks.corpus CASE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks.cases.corpus import DEFAULT_CACHE, build
from tasks.cases.loader import load_case
from tasks.util.exits import PASSED, UsageError, exit_with


def main() -> int:
    """Build the dataset and print where it is.

    Raises:
        UsageError: no such case, or a case without CORPUS.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tasks.corpus", description="Build the dataset of a case."
    )
    parser.add_argument("case", help="name of a case, or path of its folder")
    parser.add_argument(
        "--cache-dir", type=Path, default=DEFAULT_CACHE, help="where datasets are kept (default: data)"
    )
    arguments = parser.parse_args()
    case = load_case(arguments.case, platform_name="")
    if case.corpus is None:
        raise UsageError(f"{case.path}: has no CORPUS; nothing to build")
    built = build(case.corpus, arguments.cache_dir)
    print(f"{built.prefix}: {built.documents} documents, {built.tokens} tokens, sha256 {built.sha256}")
    return PASSED


if __name__ == "__main__":
    exit_with(main)
