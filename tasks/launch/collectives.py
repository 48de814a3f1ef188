"""Find the collectives in which ranks wait during a hang, and the peers that never entered them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A collective or message that a rank began and that has not ended. ``number`` counts those of its group;
    ``absent``: ranks of the group that have not begun it; ``unknown``: those without a record.
    """

    name: str
    number: int
    group: str
    ranks: tuple[int, ...]
    absent: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = f"waits in {self.name} {self.number} of group {self.group} (ranks {_listed(self.ranks)})"
        if self.absent:
            text += f", which rank {_listed(self.absent)} never entered"
        if self.unknown:
            text += f"; rank {_listed(self.unknown)} did not say"
        return text


def record_file(directory: Path, rank: int) -> Path:
    """The file to which a rank writes its record on SIGUSR2."""
    return directory / f"rank{rank}.collectives.json"


def read_records(directory: Path, ranks: Mapping[int, object]) -> dict[int, dict]:
    """The records of those ranks that wrote one."""
    paths = {rank: record_file(directory, rank) for rank in ranks}
    return {rank: json.loads(path.read_text()) for rank, path in paths.items() if path.is_file()}


def waiting(records: Mapping[int, Mapping]) -> dict[int, Waiting]:
    """The oldest collective that each rank waits in, for the ranks that wait in one."""
    newest = {rank: _newest(record) for rank, record in records.items()}
    found = {}
    for rank, record in records.items():
        entry = next((entry for entry in record["entries"] if not entry["retired"]), None)
        if entry is None:
            continue
        name, description = entry["process_group"]
        number, ranks = entry["collective_seq_id"], tuple(record["groups"].get(name, ()))
        peers = [] if entry["is_p2p"] else [peer for peer in ranks if peer != rank]
        found[rank] = Waiting(
            name=entry["profiling_name"],
            number=number,
            group=name if description in ("", "undefined") else description,
            ranks=ranks,
            absent=tuple(peer for peer in peers if peer in newest and newest[peer].get(name, 0) < number),
            unknown=tuple(peer for peer in peers if peer not in newest),
        )
    return found


def _newest(record: Mapping) -> dict[str, int]:
    """The number of the last collective that was begun, by group."""
    newest: dict[str, int] = {}
    for entry in record["entries"]:
        if not entry["is_p2p"]:
            name = entry["process_group"][0]
            newest[name] = max(newest.get(name, 0), entry["collective_seq_id"])
    return newest


def _listed(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks)) or "unknown"
