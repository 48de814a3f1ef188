"""Step 2: restart a trained case in new processes from its checkpoint, and train to the end again.

``python -m tasks.resume CASE --run-dir DIR`` writes DIR/phase2/, DIR/actual_phase2.json and DIR/phase2.json;
what phase 1 wrote stays as it is.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from tasks import phase
from tasks.exits import PASSED, UsageError, exit_with
from tasks.launch import run_to_end


def main(words: list[str] | None = None) -> int:
    """Restart; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.resume", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    phase.add_options(parser)
    options = parser.parse_args(words)
    case_file = options.run_dir / "case.json"
    if not case_file.is_file():
        raise UsageError(
            f"{options.run_dir} holds no run to restart: run python -m tasks.train with it first"
        )
    if (options.run_dir / "phase2").exists():
        raise UsageError(f"{options.run_dir} was already restarted: remove its phase2 folder to do it again")
    setup = phase.prepare(options)
    if setup.case.test_type != "ckpt-resume":
        print(f"{setup.case.name} is of type {setup.case.test_type}: there is nothing to restart")
        return PASSED
    _check_same_run(setup, case_file)
    iteration = phase.resume_iteration(setup.case)
    _check_checkpoint(setup.run_dir / "checkpoints", iteration)
    phase.check_space(setup.run_dir)
    phase.run_phase(setup, 2, load_iteration=iteration)
    return PASSED


def _check_same_run(setup: phase.Setup, case_file: Path) -> None:
    trained = json.loads(case_file.read_text())
    for name, wanted in (("case", setup.case.digest()), ("corpus", setup.data.sha256)):
        if trained["fingerprint"].get(name) != wanted:
            raise UsageError(
                f"{case_file}: phase 1 was trained with another {name}; restart it with the same case,"
                " --set and --data-path"
            )
    if trained["fingerprint"].get("megatron-lm") != setup.fingerprint.get("megatron-lm"):
        raise UsageError(f"{case_file}: phase 1 was trained by another program; restart it with the same one")


def _check_checkpoint(folder: Path, iteration: int) -> None:
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: there is no such folder, so nothing to restart from; run tasks.train again"
        )
    if not (folder / f"iter_{iteration:07d}" / ".metadata").is_file():
        found = sorted(path.name for path in folder.glob("iter_*"))
        raise UsageError(
            f"{folder}: there is no complete checkpoint of iteration {iteration}"
            f" (found: {', '.join(found) or 'none'}); run tasks.train again"
        )


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
