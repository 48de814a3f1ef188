"""A folder of checkpoints with the files and the order of writing of a real one, without training."""

from __future__ import annotations

import random
from pathlib import Path

from tasks.records import checkpoints, manifest
from tasks.records.manifest import CheckpointIdentity, Topology

ORIGIN = CheckpointIdentity(case="c0ffee", topology=Topology(pipeline_stages=4, virtual_stages=3, replicas=2))


def write_rank(folder: Path, rank: int) -> None:
    """Write a rank's shards as its checkpoint writer does."""
    content = random.Random(f"{folder.name}-{rank}")
    for thread in range(2):
        (folder / f"__{rank}_{thread}.distcp").write_bytes(content.randbytes(1000 + 100 * rank + thread))


def save(
    root: Path, iteration: int, *, ranks: int = 8, origin: CheckpointIdentity = ORIGIN, to_end: bool = True
) -> Path:
    """Save a checkpoint; not ``to_end``: killed when all ranks have written, before the manifest is."""
    folder = checkpoints.iteration_folder(root, iteration)
    folder.mkdir(parents=True)
    (folder / "common.pt").write_bytes(b"common" * 300)
    for rank in range(ranks):
        manifest.write_and_note(write_rank, folder, rank, folder, rank)
    (folder / ".metadata").write_bytes(b"metadata" * 5000)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    if to_end:
        manifest.complete(folder, iteration=iteration, origin=origin)
        checkpoints.write_tracker(root, iteration)
    return folder


def flip_byte(path: Path, place: int = 0, by: int = 1) -> None:
    """Damage one byte of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[place] ^= by
    path.write_bytes(content)


def truncate(path: Path, size_bytes: int = 0) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:size_bytes])
