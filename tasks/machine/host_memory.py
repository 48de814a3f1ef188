"""Memory that processes may use here: the machine's, or the limit of a container or a job."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

# The two versions of control groups: the folder of all groups, and the file with the limit.
_VERSION_2 = ("sys/fs/cgroup", "memory.max")
_VERSION_1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes")


def total_bytes(root: Path = Path("/")) -> int:
    """The machine's memory, or the least limit of this process's control group and those above it."""
    return min([machine_bytes(), *_limits(root)])


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(root: Path) -> list[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = _VERSION_1 if controllers else _VERSION_2
        place = PurePosixPath(group.lstrip("/"))
        # A container may see its own group as the uppermost folder, whatever its path says.
        found += [_limit(root / folder / above / name) for above in (place, *place.parents)]
    return [limit for limit in found if limit is not None]


def _limit(path: Path) -> int | None:
    """The limit in a file; None for "max" or a missing file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
