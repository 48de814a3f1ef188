"""Times are asked of events that a GPU has passed, whatever is overlapped: the stand-in would tell any."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests import short_run

pytestmark = pytest.mark.training
PLUGIN = REPOSITORY / "tests" / "rank_plugins" / "strict_events.py"


@pytest.mark.parametrize(
    "flags",
    [(), ("overlap-param-gather=false",), ("overlap-param-gather=false", "overlap-grad-reduce=false")],
)
def test_the_device_has_passed_an_event_whose_time_is_asked(tmp_path: Path, flags: tuple[str, ...]) -> None:
    words = [word for flag in flags for word in ("--set", flag)]
    done = short_run.run("train", tmp_path / "run", "--rank-plugin", PLUGIN, *words)
    assert done.returncode == 0, done.stdout
