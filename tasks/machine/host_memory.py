"""Memory of the host: the limit of the machine, a container or a job, and the use of this process."""

from __future__ import annotations

import os
import resource
from pathlib import Path, PurePosixPath

# The two versions of control groups: the folder of all groups, and the file with the limit.
_VERSION_2 = ("sys/fs/cgroup", "memory.max")
_VERSION_1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes")


def resident_bytes() -> int:
    """Resident memory of this process now, in bytes, without pages of files.

    How many pages of the libraries' files are mapped depends on what else is in the page cache: after a fresh
    installation 64 MB more than a day later, for the same program.
    """
    resident, of_files = _resident_pages()
    return (resident - of_files) * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The most resident memory this process has had, in bytes, without the pages of files that it has now."""
    _, of_files = _resident_pages()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - of_files * resource.getpagesize()
    return max(most, resident_bytes())  # getrusage may lag a little behind


def _resident_pages() -> tuple[int, int]:
    """Resident pages of this process: all of them, and those of files (/proc/self/statm)."""
    with open("/proc/self/statm") as statm:
        _, resident, of_files = statm.read().split()[:3]
    return int(resident), int(of_files)


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
