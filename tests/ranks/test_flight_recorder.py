"""A rank that waits inside a collective still says in which."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from tasks.launch.collectives import waiting
from tasks.util.files import REPOSITORY
from tests.program import command_of


def test_the_collective_is_told_from_inside_it(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            command_of("collectives.wait_in_a_collective", [rank, str(tmp_path)], tmp_path / f"answer{rank}"),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [rank.stdout.readline() for rank in ranks] == ["ready\n"] * 2
        records: dict[int, dict] = {}
        deadline = time.monotonic() + 30
        while not (found := waiting(records)) and time.monotonic() < deadline:
            for number, rank in enumerate(ranks):
                (tmp_path / f"{number}.json").unlink(missing_ok=True)
                rank.send_signal(signal.SIGUSR2)
                while not (tmp_path / f"{number}.json").exists():
                    assert rank.poll() is None
                    time.sleep(0.01)
                records[number] = json.loads((tmp_path / f"{number}.json").read_text())
        assert set(found) == {0}
        assert (found[0].name, found[0].ranks, found[0].absent) == ("gloo:all_reduce", (0, 1), (1,))
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
