"""An import without end is a hang with a report."""

from __future__ import annotations

import threading
from pathlib import Path

from tasks.launch.imports import time_limit
from tasks.util.exits import HANG
from tests.program import started_anew


def test_importing_a_torch_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n")
    ended = started_anew("imports.import_torch_from", str(tmp_path))
    assert ended.exit_code == HANG
    assert ended.stderr.startswith("error: importing torch and megatron has not ended after 1 s")
    assert ended.stderr.count("has not ended") == 1
    assert f'"{tmp_path}/torch.py", line 2' in ended.stderr


def test_what_ends_in_time_goes_on() -> None:
    with time_limit(60, "nothing"):
        (timer,) = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    timer.join(5)
    assert not timer.is_alive()
