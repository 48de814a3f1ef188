"""Modules that are imported by commands, and names of modules of the ranks."""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys


def imported_by_help(command: str) -> list[str]:
    """Modules that are there when a command has shown its help."""
    with contextlib.suppress(SystemExit):
        importlib.import_module(command).main(["--help"])
    return sorted(sys.modules)


def imported_with(*names: str) -> list[str]:
    """Modules that are there when these have been imported."""
    for name in names:
        importlib.import_module(name)
    return sorted(sys.modules)


def imported_by_detection() -> list[str]:
    """Modules that are there when the platform was found, and what looks at a machine was imported."""
    from tasks.machine import platforms

    platforms.detect()
    return imported_with(
        "tasks.cases.case", "tasks.cases.corpus", "tasks.doctor", "tasks.environment", "tasks.clean"
    )


def names_of_sums() -> list[str]:
    """Names of the scalars that the ranks add up, by what measures them; the norm of parameters aside."""
    from tasks.cases import metrics
    from tasks.ranks import overlap, resources

    sums = dict.fromkeys(("forward", "backward", "piece", "step"), 1.0)
    of_resources = resources.scalars_from(sums | {metrics.MEMORY_GROWTH.name: [1]})
    return [*overlap.Overlap([]).take(), *of_resources]


def imported_again_as_main(command: str) -> dict[str, object]:
    """Import a command's module as the main module of a spawned process; whether torch is there then."""
    main = runpy.run_module(command, run_name="__mp_main__", alter_sys=True)
    return {"main": main["__spec__"].name, "torch": "torch" in sys.modules}
