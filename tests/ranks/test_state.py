"""What a rank writes down of its training state, in a process of its own."""

from __future__ import annotations

import pytest

from tests.program import answer_of

PROGRAM = """
import json
from types import SimpleNamespace as Made
from tasks.ranks import cuda_on_cpu
cuda_on_cpu.install()
import torch
from tasks.ranks import state


class Batches:
    def __init__(self, *left):
        self.left = left

    def next_digest(self):
        if not self.left:
            raise StopIteration
        return self.left[0]


def digests(*batches, step=2.0):
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    for group in inner.param_groups:
        for parameter in group["params"]:
            inner.state[parameter] = {name: torch.ones(3) for name in ("exp_avg", "exp_avg_sq")}
            if step is not None:
                inner.state[parameter]["step"] = torch.tensor(step)
    return state.state_digests([], Made(optimizer=inner), Made(state_dict=dict), list(batches), 8)


found = {
    "next": digests(None, Batches("a"), Batches("b")),
    "same": digests(None, Batches("a", "c"), Batches("b")),
    "other": digests(None, Batches("a"), Batches("c")),
    "end": digests(None, Batches("a"), Batches()),
    "other step": digests(step=3.0),
    "no step": digests(step=None),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """Digests by name, for several states of the data and of the optimizer."""
    return answer_of(PROGRAM)


def test_the_end_of_the_data_is_a_state_like_any_other(found: dict) -> None:
    """A data set with no sample more than training takes has no next batch when the last step is saved."""
    batches = {name: found[name]["next_batch"] for name in ("next", "same", "other", "end")}
    assert batches["next"] == batches["same"]
    assert len(set(batches.values())) == 3


def test_an_optimizer_that_counts_no_step_proves_nothing(found: dict) -> None:
    assert found["no step"]["optimizer_steps"] == ""
    assert len({found[name]["optimizer_steps"] for name in ("next", "other step", "no step")}) == 3
