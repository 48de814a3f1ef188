"""What a rank sets before its groups exist, in a process of its own: it sets torch's own switches."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.case import REPOSITORY

PROGRAM = """
import json, sys
import torch
from tasks.case import load_case
from tasks.ranks import pretrain
from tasks.ranks.arguments import parse_arguments


class Reached(Exception):
    pass


def start_worker(args):
    raise Reached


pretrain.checkpoint.start_worker = start_worker
args = parse_arguments(load_case("gpt3_pp4_resume", platform_name=sys.argv[1]).flags(), world_size=8)
try:
    pretrain._start_groups(args)
except Reached:
    found = {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch._C._is_multithreading_enabled(),
    }
    print(json.dumps(found))
"""


@pytest.mark.parametrize(("platform", "default"), [("gpu1_h100", False), ("cpu_x86_64", True)])
def test_gpus_are_spared_what_costs_time_and_changes_no_result(platform: str, default: bool) -> None:
    """Backward passes stay in their thread, and new tensors are not filled."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, platform], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"deterministic": True, "filled": default, "threads": default}
