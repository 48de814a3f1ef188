"""Memory of the host: the limit of the machine, a container or a job, and the use of this process."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class _Version:
    """A version of control groups: the folder of all groups, and files of each."""

    folder: str
    limit: str
    peak: str
    events: str


_VERSION_2 = _Version(folder="sys/fs/cgroup", limit="memory.max", peak="memory.peak", events="memory.events")
_VERSION_1 = _Version(
    folder="sys/fs/cgroup/memory",
    limit="memory.limit_in_bytes",
    peak="memory.max_usage_in_bytes",
    events="memory.oom_control",
)


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
    limits = (_number(group / version.limit) for group, version in _groups(root))
    return min([machine_bytes(), *(limit for limit in limits if limit is not None)])


def kills(root: Path = Path("/")) -> int:
    """Processes of this control group that the kernel has killed for lack of memory; 0 if unknown."""
    for group, version in _groups(root):  # the count of a group includes those below it
        text = _text(group / version.events)
        if found := re.search(r"^oom_kill (\d+)$", text, re.MULTILINE):
            return int(found[1])
    return 0


def killed(root: Path = Path("/")) -> str:
    """The end of a message on a killed process: the least limit of its control groups, and the peak there."""
    return f"was killed by the kernel, for lack of memory: {_limit_and_peak(root)}"


def _limit_and_peak(root: Path) -> str:
    known = [(_number(group / version.limit), group, version) for group, version in _groups(root)]
    bounded = [entry for entry in known if entry[0] is not None and entry[0] < machine_bytes()]
    if not bounded:
        return f"this machine has {machine_bytes() / _MIB:.0f} MiB"
    limit, group, version = min(bounded, key=lambda entry: entry[0])
    peak = _number(group / version.peak)
    most = f", the most in use was {peak / _MIB:.0f} MiB" if peak is not None else ""
    return f"the limit of its control group is {limit / _MIB:.0f} MiB{most}"


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path) -> Iterator[tuple[Path, _Version]]:
    """Folders of this process's control groups that may limit memory, the innermost first."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2) if line.count(":") > 1 else ("", "none", "")
        if controllers and "memory" not in controllers.split(","):
            continue
        version = _VERSION_1 if controllers else _VERSION_2
        place = PurePosixPath(group.lstrip("/"))
        # A container may see its own group as the uppermost folder, whatever its path says.
        for above in (place, *place.parents):
            yield root / version.folder / above, version


def _number(path: Path) -> int | None:
    """The number in a file; None for "max" or a missing file."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
