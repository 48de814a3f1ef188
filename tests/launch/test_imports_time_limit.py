"""An import without end is a hang with a report."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tasks.launch.imports import time_limit
from tasks.util.exits import HANG
from tasks.util.files import REPOSITORY

PRELOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from tasks.launch import imports
imports.IMPORT_TIMEOUT_S = 1.0
imports.preload(imports.ImportSettings(device="cpu"))
"""


def test_importing_a_torch_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)\n")
    command = [sys.executable, "-c", PRELOAD, str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == HANG
    assert ended.stderr.startswith("error: importing torch and megatron has not ended after 1 s")
    assert ended.stderr.count("has not ended") == 1
    assert f'"{tmp_path}/torch.py", line 2' in ended.stderr


def test_what_ends_in_time_goes_on() -> None:
    with time_limit(60, "nothing"):
        (timer,) = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    timer.join(5)
    assert not timer.is_alive()
