"""A folder of checkpoints: ``iter_<N>/`` for iteration N, a tracker that names the newest, as in Megatron.

Automatic resume takes the newest complete checkpoint. The manifest proves that one is complete; the tracker,
written after it, only names the checkpoint that should be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.records import manifest
from tasks.records.manifest import ANY_IDENTITY, CheckpointIdentity, DamagedCheckpoint
from tasks.util.exits import UsageError
from tasks.util.files import replace_file

TRACKER = "latest_checkpointed_iteration.txt"
FALLBACKS = "fallbacks.txt"  # in a phase's evidence: which checkpoints its ranks did not use, and why
_FOLDER = re.compile(r"iter_([0-9]{7}|[1-9][0-9]{7,})")  # seven digits or, without leading zeros, more


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Content of a folder of checkpoints. ``iterations``: newest first, complete or not.

    ``tracked``: the iteration that the tracker names. ``tracker_fault``: the reason to distrust it, or "".
    """

    root: Path
    iterations: tuple[int, ...]
    tracked: int | None
    tracker_fault: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The checkpoint to resume from, None for the beginning; and why newer ones are not used."""

    iteration: int | None
    skipped: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Lines to print when newer checkpoints are not used; empty otherwise."""
        if not self.skipped:
            return []
        begin = "the beginning" if self.iteration is None else f"iteration {self.iteration}"
        return [*(f"checkpoint not used: {reason}" for reason in self.skipped), f"resuming from {begin}"]


def iteration_folder(root: str | Path, iteration: int) -> Path:
    """The folder of the checkpoint of ``iteration``, named as in Megatron."""
    return Path(root) / f"iter_{iteration:07d}"


def write_tracker(root: str | Path, iteration: int) -> None:
    """Name ``iteration`` as the newest complete checkpoint.

    Raises:
        OSError: the file cannot be written.
    """
    replace_file(Path(root) / TRACKER, str(iteration))


def list_checkpoints(root: str | Path) -> Listing:
    """Look into a folder of checkpoints, which need not exist."""
    root = Path(root)
    names = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    iterations = {int(found[1]) for name in names if (found := _FOLDER.fullmatch(name))}
    tracked, fault = _read_tracker(root)
    if tracked is not None and tracked not in iterations:
        fault = (
            f"{root / TRACKER}: names iteration {tracked}, but {iteration_folder(root, tracked).name} is not"
            f" there (found: {_named(iterations)})"
        )
    return Listing(
        root=root, iterations=tuple(sorted(iterations, reverse=True)), tracked=tracked, tracker_fault=fault
    )


def _read_tracker(root: Path) -> tuple[int | None, str]:
    """The iteration that the tracker names, or what is wrong with the tracker; without one, neither."""
    tracker = root / TRACKER
    if not tracker.is_file():
        return None, ""
    text = tracker.read_text(errors="replace").strip()  # as Megatron does: an editor adds a line end
    if not re.fullmatch(r"[0-9]{1,18}", text):
        return None, f"{tracker}: damaged: it names no iteration"
    return int(text), ""


def check(root: str | Path, iteration: int, expected: CheckpointIdentity = ANY_IDENTITY) -> None:
    """Check a checkpoint and its tracker as far as possible before a rank starts.

    Raises:
        DamagedCheckpoint: missing, incomplete, damaged, or of another training.
    """
    listing = list_checkpoints(root)
    if not listing.root.is_dir():
        raise DamagedCheckpoint(f"{root}: there is no such folder, so nothing to restart from")
    if iteration not in listing.iterations:
        found = _named(listing.iterations)
        raise DamagedCheckpoint(f"{root}: there is no checkpoint of iteration {iteration} (found: {found})")
    if listing.tracker_fault:
        raise DamagedCheckpoint(listing.tracker_fault)
    if listing.tracked is None:
        raise DamagedCheckpoint(f"{listing.root / TRACKER}: missing")
    manifest.check(iteration_folder(root, iteration), iteration=iteration, expected=expected)


def check_of_megatron_lm(root: str | Path, iteration: int) -> None:
    """Check that Megatron-LM's own loop saved this checkpoint: it writes no manifest, and ``.metadata`` last.

    Raises:
        UsageError: there is no ``.metadata``.
    """
    folder = iteration_folder(root, iteration)
    if not (folder / ".metadata").is_file():
        raise UsageError(f"{folder}: is no complete checkpoint (no .metadata); run tasks.train again")


def newest_complete(root: str | Path, expected: CheckpointIdentity = ANY_IDENTITY) -> Choice:
    """The newest checkpoint that may be loaded; this process checks every byte of it.

    Raises:
        DamagedCheckpoint: as in ``choose``.
    """
    return choose(
        list_checkpoints(root), lambda folder, n: manifest.verify(folder, iteration=n, expected=expected)
    )


def choose(listing: Listing, verify: Callable[[Path, int], object]) -> Choice:
    """The newest checkpoint for which ``verify`` raises no ``DamagedCheckpoint``.

    An interrupted save (no manifest, and not yet named by the tracker) is skipped.

    Raises:
        DamagedCheckpoint: checkpoints are damaged or lost and none is left. The user decides whether to start
            from the beginning.
    """
    lost = [listing.tracker_fault] if listing.tracker_fault else []
    skipped = list(lost)
    for iteration in listing.iterations:
        folder = iteration_folder(listing.root, iteration)
        try:
            verify(folder, iteration)
        except DamagedCheckpoint as error:
            skipped.append(error.reason)
            if (folder / manifest.FILE_NAME).exists() or iteration <= (listing.tracked or 0):
                lost.append(error.reason)
            continue
        return Choice(iteration=iteration, skipped=tuple(skipped))
    if lost:
        raise DamagedCheckpoint("; ".join([f"{listing.root}: no checkpoint is left to resume from", *lost]))
    return Choice(iteration=None, skipped=tuple(skipped))


def _named(iterations: Iterable[int]) -> str:
    return ", ".join(iteration_folder("", iteration).name for iteration in sorted(iterations)) or "none"
