"""What is done before the first step on GPUs, in a process of its own: torch's functions are replaced."""

from __future__ import annotations

import pytest

from tasks.cases.case import load_case
from tasks.cases.flags import parse_arguments
from tasks.machine import gpu_memory
from tasks.machine.gpu_memory import MIB
from tests.program import answer_of

PROGRAM = """
import json, weakref
import torch
from tasks.cases.case import load_case
from tasks.ranks import warm_up
from tasks.cases.flags import parse_arguments

args = parse_arguments(load_case("gpt3_pp4_resume", platform_name="gpu1_h100").flags(), world_size=8)
alive, found = weakref.WeakSet(), {}


class Block:
    pass


def empty(size, *, dtype, device):
    assert (dtype, device) == (torch.uint8, 3)
    block = Block()
    alive.add(block)
    said.append(["block", size, len(alive)])
    return block


torch.empty = empty
torch.cuda.current_device = lambda: 3
torch.distributed.barrier = lambda *, device_ids: said.append(["barrier", device_ids, len(alive)])
torch.cuda.reset_peak_memory_stats = lambda: said.append(["peak", None, len(alive)])
torch.cuda.max_memory_allocated = lambda: said.append(["asked", None, len(alive)]) or 77
for last in (True, False):
    warm_up.parallel_state.is_pipeline_last_stage = lambda *, ignore_virtual: last
    said = found["last stage" if last else "other stage"] = []
    said.append(["answer", warm_up.reserve_memory(args), len(alive)])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said() -> dict[str, list[list]]:
    """Of a rank of the last stage and of another: blocks with their bytes and how many there were then, the
    meeting of all ranks, the peak that is forgotten."""
    return answer_of(PROGRAM)


@pytest.mark.parametrize("stage", ["last stage", "other stage"])
def test_what_a_step_needs_is_asked_for_and_given_back(said: dict[str, list[list]], stage: str) -> None:
    case = load_case("gpt3_pp4_resume", platform_name="gpu1_h100")
    need = gpu_memory.estimate(parse_arguments(case.flags(), world_size=8))
    expected = round(need.activations + (need.logits / 2 if stage == "last stage" else 0)) * MIB
    blocks = [(size, there) for kind, size, there in said[stage] if kind == "block"]
    assert blocks[0] == (expected, 1)
    # At once, for what is given back is taken again.
    assert blocks[1:] == [(MIB, count) for count in range(1, 65)]


def test_the_last_stage_asks_for_its_logits_too(said: dict[str, list[list]]) -> None:
    assert said["last stage"][1][1] > 2 * said["other stage"][1][1]


@pytest.mark.parametrize("stage", ["last stage", "other stage"])
def test_all_ranks_have_asked_before_one_goes_on_and_the_peak_is_that_of_before(
    said: dict[str, list[list]], stage: str
) -> None:
    assert said[stage][-3:] == [["barrier", [3], 0], ["peak", None, 0], ["answer", 77, 0]]
    assert said[stage][0] == ["asked", None, 0]
