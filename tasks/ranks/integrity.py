"""Checkpoints checked by all ranks together, each reading its share of the files, before any is loaded.

Code that comes with a checkpoint is not executed, neither with a damaged one nor, as far as torch can prevent
it, with one that its manifest vouches for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.records import checkpoints, manifest
from tasks.records.manifest import CheckpointIdentity, DamagedCheckpoint, Manifest


def verify(folder: Path, iteration: int, expected: CheckpointIdentity) -> None:
    """Read every file of a checkpoint once; all ranks call this together, and fail together.

    Raises:
        DamagedCheckpoint: the same on every rank.
    """
    found = _from_first_rank(lambda: _check(folder, iteration, expected))
    if isinstance(found, tuple):
        raise DamagedCheckpoint(*found)
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    names = list(found.files)
    own = set(manifest.share(found, rank, world_size))
    changed = torch.tensor(
        [name in own and not manifest.is_unchanged(folder, found, name) for name in names],
        dtype=torch.int,
        device=torch.cuda.current_device(),
    )
    torch.distributed.all_reduce(changed)
    manifest.refuse_changed(
        folder, [name for name, count in zip(names, changed.tolist(), strict=True) if count]
    )


def choose_newest(root: str | Path, expected: CheckpointIdentity) -> checkpoints.Choice:
    """The newest checkpoint that may be loaded; all ranks call this together.

    Every rank uses the first one's listing, so that none waits for a check that others do not make.

    Raises:
        DamagedCheckpoint: as in ``checkpoints.choose``.
    """
    listing = _from_first_rank(lambda: checkpoints.list_checkpoints(root))
    return checkpoints.choose(listing, lambda folder, iteration: verify(folder, iteration, expected))


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Inside, torch.load builds tensors, plain values and what megatron-core lists as safe, nothing else.

    megatron-core asks for no such limit when it loads sharded objects, but torch lets the environment decide.
    ``.metadata`` is read by torch's ``pickle.load``, without any limit but the manifest.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def _check(folder: Path, iteration: int, expected: CheckpointIdentity) -> Manifest | tuple[str, str]:
    try:
        return manifest.check(folder, iteration=iteration, expected=expected)
    except DamagedCheckpoint as error:
        return error.reason, error.cure


def _from_first_rank(look: Any) -> Any:
    box = [look() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
