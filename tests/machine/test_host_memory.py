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


@pytest.mark.parametrize(
    ("groups", "folder", "names"),
    [
        ("0::/job/step", "sys/fs/cgroup/job", ("memory.max", "memory.peak", "memory.events")),
        ("0::/of/the/host", "sys/fs/cgroup", ("memory.max", "memory.peak", "memory.events")),
        (
            "4:memory:/job",
            "sys/fs/cgroup/memory/job",
            ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
        ),
    ],
)
def test_processes_that_the_kernel_killed(
    tmp_path: Path, groups: str, folder: str, names: tuple[str, str, str]
) -> None:
    write(tmp_path / "proc/self/cgroup", groups)
    assert host_memory.kills(tmp_path) == 0
    machine = f"for lack of memory: this machine has {host_memory.machine_bytes() // 2**20} MiB"
    assert host_memory.killed(tmp_path).endswith(machine)
    limit, peak, events = (tmp_path / folder / name for name in names)
    write(events, "low 0\noom 7\noom_kill 3\noom_group_kill 0")
    write(limit, str(600 * 2**20))
    assert host_memory.kills(tmp_path) == 3
    assert host_memory.killed(tmp_path).endswith("the limit of its control group is 600 MiB")
    write(peak, str(599 * 2**20))
    assert host_memory.killed(tmp_path).endswith(" is 600 MiB, the most in use was 599 MiB")
