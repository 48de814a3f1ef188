"""Checkpoints kept in the repository, so that old ones stay loadable: find, check, keep one.

A case of type ``frozen-resume`` starts from one instead of training from its first iteration. The digests of
what was saved, and the values of the run that made it, lie beside the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.cases.case import Case
from tasks.records import manifest
from tasks.records.card import Card
from tasks.records.card_store import read_card, write_card
from tasks.records.checkpoints import TRACKER, iteration_folder, write_tracker
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import REPOSITORY, read_json_object, write_atomically

TYPE = "frozen-resume"
IN_RUN = "frozen"  # the folder of a run directory that holds RECORD, VALUES and PROVENANCE
RECORD, VALUES, PROVENANCE = "record.json", "values.json", "provenance.json"
LARGEST_BYTES = 8 * 2**20  # a repository is no store for checkpoints


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceRun:
    """The run that made a kept checkpoint: its record of phase 1, its values and its fingerprint."""

    record: Mapping[str, object]
    values: Card
    fingerprint: Mapping[str, object]


def folder_of(case: Case, root: Path = REPOSITORY) -> Path:
    """The folder of the checkpoint of a case of this type: the root of ``iter_<N>/``."""
    return root / str(case.checkpoint)


def iteration_of(folder: Path) -> int:
    """The iteration of the checkpoint in ``folder``.

    Raises:
        UsageError: there is none, or it is not what its manifest says.
    """
    tracker = folder / TRACKER
    text = tracker.read_bytes().strip() if tracker.is_file() else b""
    if not text.isdigit():  # of bytes: only 0 to 9
        raise UsageError(f"{folder}: holds no kept checkpoint; how to make one: docs/cases.md")
    iteration = int(text)
    manifest.verify(iteration_folder(folder, iteration), iteration=iteration)
    return iteration


def check(case: Case, platform_name: str, root: Path = REPOSITORY) -> Path:
    """The folder of the case's checkpoint, when it can be loaded here.

    Raises:
        CannotRun: it was made for another kind of device.
        UsageError: it is missing, or the case trains another model or schedule by now.
    """
    folder = folder_of(case, root)
    iteration_of(folder)
    made = _source_run_in(folder).fingerprint
    made_on = str(made.get("platform"))
    if made_on.split("_")[0] != platform_name.split("_")[0]:
        raise CannotRun(f"{case.name}: its checkpoint, made on {made_on}, cannot go on on {platform_name}")
    if made.get("case") != case.digest:
        raise UsageError(
            f"{folder}: was made by another configuration of {case.name}, see {PROVENANCE} there; undo what"
            " changed the case, or make a new checkpoint (docs/cases.md)"
        )
    return folder


def take_along(folder: Path, run_dir: Path) -> None:
    """Copy what the run is compared with into its directory."""
    target = run_dir / IN_RUN
    target.mkdir(parents=True, exist_ok=True)  # of a start that was interrupted before there was a run
    for name in (RECORD, VALUES, PROVENANCE):
        shutil.copyfile(folder / name, target / name)


def read_source_run(run_dir: Path) -> SourceRun | None:
    """The run that made the kept checkpoint that this run started from; None without one.

    Raises:
        UsageError: a malformed file.
    """
    folder = run_dir / IN_RUN
    if not folder.is_dir():
        return None
    return _source_run_in(folder)


def _source_run_in(folder: Path) -> SourceRun:
    return SourceRun(
        record=read_json_object(folder / RECORD),
        values=read_card(folder / VALUES),
        fingerprint=_fingerprint(read_json_object(folder / PROVENANCE)),
    )


def keep(run_dir: Path, folder: Path, reason: str) -> int:
    """Keep the only checkpoint before the last iteration of a training; returns its bytes.

    Raises:
        UsageError: the run is not a whole training from its first iteration, or is too big.
    """
    case_file, record_file = run_dir / "case.json", run_dir / "phase1.json"
    if not case_file.is_file() or not record_file.is_file() or (run_dir / IN_RUN).exists():
        raise UsageError(f"{run_dir}: no training from the first iteration; run tasks.train --from-start")
    case, record = read_json_object(case_file), read_json_object(record_file)
    last = record["steps"][1]
    iterations = [int(iteration) for iteration in record["state"] if 0 < int(iteration) < last]
    if len(iterations) != 1:
        raise UsageError(f"{run_dir}: saved {len(iterations)} checkpoints before its end, wanted is one")
    source = iteration_folder(run_dir / "checkpoints", iterations[0])
    manifest.verify(source, iteration=iterations[0])
    size = sum(path.stat().st_size for path in source.iterdir())
    if size > LARGEST_BYTES:
        raise UsageError(f"{source}: {size / 2**20:.1f} MiB, at most {LARGEST_BYTES / 2**20:.0f} are kept")
    # In the place of the one that was kept before when it is whole: a kill leaves one of the two.
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new / source.name)
    write_tracker(new, iterations[0])
    state = {str(iterations[0]): record["state"][str(iterations[0])]}
    kept = {"steps": record["steps"], "restarts": record["restarts"], "state": state}
    write_atomically(new / RECORD, json.dumps(kept, indent=1))
    write_card(new / VALUES, read_card(run_dir / "actual_phase1.json"))
    origin = {key: case[key] for key in ("case_name", "environment", "platform", "fingerprint")}
    provenance = {**origin, "reason": reason, "made": case["started"], "bytes": size}
    write_atomically(new / PROVENANCE, json.dumps(provenance, indent=1))
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return size


def _fingerprint(provenance: Mapping[str, object]) -> Mapping[str, object]:
    fingerprint = provenance.get("fingerprint")
    return fingerprint if isinstance(fingerprint, dict) else {}
