"""What a rank writes down of its training state, in a process of its own."""

from __future__ import annotations

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


def digests(*batches):
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    for group in inner.param_groups:
        for parameter in group["params"]:
            inner.state[parameter] = {name: torch.ones(3) for name in ("exp_avg", "exp_avg_sq")}
            inner.state[parameter]["step"] = torch.tensor(2.0)
    return state.state_digests([], Made(optimizer=inner), Made(state_dict=dict), list(batches), 8)


found = {
    "next": digests(None, Batches("a"), Batches("b")),
    "same": digests(None, Batches("a", "c"), Batches("b")),
    "other": digests(None, Batches("a"), Batches("c")),
    "end": digests(None, Batches("a"), Batches()),
}
print(json.dumps(found))
"""


def test_the_end_of_the_data_is_a_state_like_any_other() -> None:
    """A data set with no sample more than training takes has no next batch when the last step is saved."""
    found = {name: digests["next_batch"] for name, digests in answer_of(PROGRAM).items()}
    assert found["next"] == found["same"]
    assert len(set(found.values())) == 3
