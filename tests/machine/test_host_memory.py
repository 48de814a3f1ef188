"""Memory that processes may take: a control group's limit counts where it is below the machine's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.machine import host_memory

MACHINE = host_memory.total_bytes(Path("/no/such/root"))
GIB = 2**30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/", {"sys/fs/cgroup/memory.max": "1073741824"}, GIB),
        ("0::/", {"sys/fs/cgroup/memory.max": "max"}, MACHINE),
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "1073741824", "sys/fs/cgroup/a/b/memory.max": "max"}, GIB),
        ("0::/of/the/host", {"sys/fs/cgroup/memory.max": "1073741824"}, GIB),
        ("4:memory:/job", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1073741824"}, GIB),
        ("4:memory:/", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("3:cpuset:/", {"sys/fs/cgroup/cpuset/memory.limit_in_bytes": "1"}, MACHINE),
        ("", {}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    write(tmp_path / "proc/self/cgroup", groups)
    for path, text in limits.items():
        write(tmp_path / path, text)
    assert host_memory.total_bytes(tmp_path) == expected
