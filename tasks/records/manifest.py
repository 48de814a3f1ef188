"""The manifest of a checkpoint: size and SHA-256 of each file, written last, checked before loading.

``manifest.json`` marks a checkpoint as complete: each rank notes the files it has written, and when all have,
rank 0 merges the notes and renames the manifest into place. A folder without one is left by an interrupted
save. Nothing is flushed to the disk for it: files lost in a power cut do not match. The manifest guards
against damage and mix-up, not against someone who writes another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.machine.platforms import installed_version
from tasks.util.exits import UsageError
from tasks.util.files import replace_file

FILE_NAME = "manifest.json"
FORMAT = 1
CURE = "put the checkpoint back from a copy, or train again (python -m tasks.train) in a new run directory"
_NOTE = ".written_by_rank{rank}.json"
_CHUNK_BYTES = 2**20
_MOST_NAMED = 4


class DamagedCheckpoint(UsageError):
    """A checkpoint that must not be loaded: incomplete, damaged, or of something else.

    ``reason`` names the file and what is wrong with it, ``cure`` says what to do.
    """

    def __init__(self, reason: str, cure: str = CURE) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason = reason
        self.cure = cure


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The number of ranks that saved a checkpoint, and their layout."""

    pipeline_stages: int
    virtual_stages: int
    replicas: int

    def __str__(self) -> str:
        return f"pp{self.pipeline_stages} x vp{self.virtual_stages} x dp{self.replicas}"


@dataclass(frozen=True, kw_only=True)
class CheckpointIdentity:
    """Identity of a checkpoint. As an expectation, None waives a check.

    ``case``: digest of the case (``Case.digest``).
    """

    case: str | None
    topology: Topology | None


ANY_IDENTITY = CheckpointIdentity(case=None, topology=None)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a checkpoint, as it was when it had been written."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest. ``files`` has names relative to the checkpoint's folder as keys."""

    iteration: int
    origin: CheckpointIdentity
    versions: Mapping[str, str | None]
    files: Mapping[str, File]


def describe(path: Path) -> File:
    """Size and SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return File(size_bytes=size_bytes, sha256=digest.hexdigest())


def write_and_note(
    write: Callable[..., Any], folder: Path, rank: int, *arguments: Any, **options: Any
) -> Any:
    """Run a rank's checkpoint writer, then note size and digest of what it wrote, for ``complete``.

    It runs where the writer does (in the checkpoint worker, beside training), so that nobody waits for it.
    """
    result = write(*arguments, **options)
    # torch_dist's files of a rank; one that another version names otherwise is read by ``complete``.
    written = {path.name: dataclasses.asdict(describe(path)) for path in folder.glob(f"__{rank}_*")}
    replace_file(folder / _NOTE.format(rank=rank), json.dumps(written))
    return result


def complete(folder: Path, *, iteration: int, origin: CheckpointIdentity) -> Manifest:
    """Write the manifest of a checkpoint that all ranks have written. For rank 0 alone. Files that no rank
    noted (megatron-core's own few) are read here.

    Raises:
        OSError: a file cannot be read or written.
    """
    noted: dict[str, File] = {}
    for note in sorted(folder.glob(_NOTE.format(rank="*"))):
        noted |= {name: File(**file) for name, file in json.loads(note.read_text()).items()}
        note.unlink()
    others = {name: describe(folder / name) for name in _names(folder) - noted.keys() - {FILE_NAME}}
    manifest = Manifest(
        iteration=iteration,
        origin=origin,
        versions={package: installed_version(package) for package in ("megatron-core", "torch")},
        files=dict(sorted((noted | others).items())),
    )
    replace_file(folder / FILE_NAME, _text(manifest))
    return manifest


def read(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        DamagedCheckpoint: there is none, or it is not as it was written.
    """
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedCheckpoint(
            f"{path}: missing: the checkpoint is incomplete (its save was interrupted, or the file was lost)"
        ) from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error.strerror})") from None
    # UnicodeDecodeError and JSONDecodeError are kinds of ValueError; a missing field is a KeyError.
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        manifest = _parse(json.loads(content))
        if _text(manifest).encode() == content:
            return manifest
    raise DamagedCheckpoint(f"{path}: damaged: it is not what was written when the checkpoint was saved")


def check(folder: Path, *, iteration: int, expected: CheckpointIdentity = ANY_IDENTITY) -> Manifest:
    """Check everything that needs no reading of the files: identity, names, sizes.

    Raises:
        DamagedCheckpoint: something does not match.
    """
    if not folder.is_dir():
        raise DamagedCheckpoint(f"{folder}: there is no such checkpoint")
    manifest = read(folder)
    path = folder / FILE_NAME
    if manifest.iteration != iteration:
        raise DamagedCheckpoint(
            f"{path}: this is the checkpoint of iteration {manifest.iteration}, not {iteration}: its folder"
            " was renamed or replaced"
        )
    _check_origin(path, manifest.origin, expected)
    _check_names_and_sizes(folder, manifest)
    return manifest


def verify(folder: Path, *, iteration: int, expected: CheckpointIdentity = ANY_IDENTITY) -> Manifest:
    """Check everything, the content of all files included.

    Raises:
        DamagedCheckpoint: something does not match.
    """
    manifest = check(folder, iteration=iteration, expected=expected)
    refuse_changed(folder, [name for name in manifest.files if not is_unchanged(folder, manifest, name)])
    return manifest


def is_unchanged(folder: Path, manifest: Manifest, name: str) -> bool:
    """True when a file's content is as it was saved."""
    try:
        return describe(folder / name) == manifest.files[name]
    except OSError:
        return False


def refuse_changed(folder: Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint with changed files.

    Raises:
        DamagedCheckpoint: names the files, when there are any.
    """
    changed = list(names)
    if changed:
        raise DamagedCheckpoint(
            f"{_paths(folder, changed)}: damaged: the content (SHA-256) is not what was saved, or unreadable"
        )


def share(manifest: Manifest, rank: int, world_size: int) -> list[str]:
    """The files that ``rank`` checks, so that all ranks together read each file once, and equally much."""
    largest_first = sorted(manifest.files, key=lambda name: (-manifest.files[name].size_bytes, name))
    return largest_first[rank::world_size]


def _check_origin(path: Path, origin: CheckpointIdentity, expected: CheckpointIdentity) -> None:
    if expected.topology is not None and origin.topology != expected.topology:
        raise DamagedCheckpoint(
            f"{path}: the checkpoint was saved by {origin.topology}, this run is {expected.topology}",
            "restart it with the topology that it was saved by",
        )
    if expected.case is not None and origin.case != expected.case:
        raise DamagedCheckpoint(
            f"{path}: the checkpoint is of another case ({str(origin.case)[:12]}, not {expected.case[:12]})",
            "restart it with the case and the --set that it was trained with",
        )


def _check_names_and_sizes(folder: Path, manifest: Manifest) -> None:
    present = _names(folder) - {FILE_NAME}
    if missing := sorted(manifest.files.keys() - present):
        raise DamagedCheckpoint(f"{_paths(folder, missing)}: missing")
    for name, file in manifest.files.items():
        size_bytes = (folder / name).stat().st_size
        if size_bytes != file.size_bytes:
            raise DamagedCheckpoint(
                f"{folder / name}: damaged: {size_bytes} bytes, {file.size_bytes} were saved"
            )
    # A loader may prefer such a file to the one that was saved: megatron-core 0.19 does so for common.pt.
    if added := sorted(present - manifest.files.keys()):
        raise DamagedCheckpoint(
            f"{_paths(folder, added)}: not part of the checkpoint when it was saved", f"remove it, or {CURE}"
        )


def _names(folder: Path) -> set[str]:
    """All that a loader may find there: whatever is no plain folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _paths(folder: Path, names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(str(folder / name) for name in names[:_MOST_NAMED]) + more


def _text(manifest: Manifest) -> str:
    """The only text that a manifest has, so that no byte of it can change unseen."""
    content = {"format": FORMAT, **dataclasses.asdict(manifest)}
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content, indent=1)


def _parse(content: Mapping[str, Any]) -> Manifest:
    topology = content["origin"]["topology"]
    return Manifest(
        iteration=content["iteration"],
        origin=CheckpointIdentity(
            case=content["origin"]["case"], topology=None if topology is None else Topology(**topology)
        ),
        versions=content["versions"],
        files={name: File(**file) for name, file in content["files"].items()},
    )
