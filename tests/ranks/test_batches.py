"""Which samples a replica reads, in which order, and which of their tensors a chunk of the pipeline gets."""

from __future__ import annotations

import pytest

from tests.program import answer_of

PROGRAM = """
import argparse, json
import torch
from tasks.ranks import batches

names = batches.EMBEDDED + batches.JUDGED
samples = [
    {name: torch.full((4,), 10 * sample + place) for place, name in enumerate(names)} for sample in range(13)
]
args = argparse.Namespace(micro_batch_size=2, data_parallel_size=3, virtual_pipeline_model_parallel_size=3)
pinned = []
torch.Tensor.pin_memory = lambda values: pinned.append(int(values[0, 0])) or values
groups = batches.parallel_state
groups.get_data_parallel_rank = lambda: 1
batches.build_training_set = lambda args, *, reads_data: found["reads"].append(reads_data) or samples
found = {"read": [], "chunks": {}, "reads": []}
for batch in batches.Batches(samples, args, 0, batches.EMBEDDED):
    found["read"].append({name: values.tolist() for name, values in batch.items()})
found["pinned"] = list(pinned)
found["exactly"] = len(list(batches.Batches(samples[:10], args, 0, batches.EMBEDDED)))
twice = batches.Batches(samples, args, 0, batches.EMBEDDED)
twice.read_ahead(1), twice.read_ahead(2)
found["read ahead twice"] = [int(batch["tokens"][0, 0]) for batch in twice]
later = [batches.Batches(samples, args, 6, kind) for kind in (batches.EMBEDDED, batches.JUDGED)]
found["digests"] = [read.next_digest() for read in later]
found["then"] = next(later[1])["labels"].tolist()
del pinned[:]
ahead, plain = (batches.Batches(samples, args, 0, batches.EMBEDDED) for _ in range(2))
found["ahead"] = said = []
for count in (1, 5, 5):
    ahead.read_ahead(count)
    said.append({"read so far": list(pinned)})
    taken = next(ahead, None)
    said[-1]["taken"] = taken["tokens"].tolist() if taken else None
try:
    ahead.next_digest()
except StopIteration:
    found["no digest at the end"] = True
ahead = batches.Batches(samples, args, 0, batches.EMBEDDED)
found["digests with and without"] = [plain.next_digest(), (ahead.read_ahead(2), ahead.next_digest())[1]]
for stage in ("first", "middle", "last"):
    groups.is_pipeline_first_stage = lambda *, ignore_virtual: stage == "first"
    groups.is_pipeline_last_stage = lambda *, ignore_virtual: stage == "last"
    reads = batches.build_iterators(args, 0)
    found["chunks"][stage] = [list(next(read)) if read else None for read in reads]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """Of 13 samples, micro-batches of 2, and the second of three replicas."""
    return answer_of(PROGRAM)


def test_a_replica_reads_its_part_of_every_run_of_samples_until_there_is_no_whole_one(found: dict) -> None:
    assert [batch["tokens"] for batch in found["read"]] == [[[20] * 4, [30] * 4], [[80] * 4, [90] * 4]]
    assert found["exactly"] == 2, "the last samples are read, too"


def test_only_what_the_chunk_takes_is_read_and_lies_where_a_device_copies_by_itself(found: dict) -> None:
    assert [set(batch) for batch in found["read"]] == [{"tokens", "position_ids"}] * 2
    assert sorted(found["pinned"]) == [20, 21, 80, 81]


def test_it_goes_on_where_samples_were_consumed_and_a_digest_consumes_none(found: dict) -> None:
    assert found["then"] == [[82] * 4, [92] * 4]
    assert found["digests"][0] == found["digests"][1]


def test_what_was_read_ahead_is_taken_in_order_and_not_read_again(found: dict) -> None:
    assert found["read ahead twice"] == [20, 80]
    first, second = [20, 21], [80, 81]  # the first tokens of the two tensors that are kept for the device
    assert found["ahead"] == [
        {"read so far": first, "taken": [[20] * 4, [30] * 4]},
        {"read so far": first + second, "taken": [[80] * 4, [90] * 4]},
        {"read so far": first + second, "taken": None},
    ]


def test_there_is_no_digest_of_a_batch_that_does_not_come(found: dict) -> None:
    assert found["no digest at the end"]


def test_the_batch_that_comes_next_is_the_same_whether_it_was_read_ahead_or_not(found: dict) -> None:
    plain, ahead = found["digests with and without"]
    assert plain == ahead


def test_only_the_first_and_the_last_chunk_of_the_pipeline_read(found: dict) -> None:
    assert found["reads"] == [True, False, True]
    assert found["chunks"] == {
        "first": [["tokens", "position_ids"], None, None],
        "middle": [None, None, None],
        "last": [None, None, ["labels", "loss_mask"]],
    }


BUILT = """
import argparse, json
from types import SimpleNamespace
from tasks.ranks import batches

said = {}
batches.GPTDatasetConfig = lambda **values: SimpleNamespace(split_matrix=[(0, 0.9), (0.9, 1), None], **values)
def builder(kind, sizes, is_built_here, config):
    said.update(sizes=sizes, here=is_built_here(), splits=config.split_matrix, seed=config.random_seed)
    said.update(length=config.sequence_length, blend=config.blend, cache=config.path_to_cache)
    return SimpleNamespace(build=lambda: ("training", None, None))
batches.BlendedMegatronDatasetBuilder = builder
args = argparse.Namespace(seed=77, seq_length=32, data_path=["text"], split="90,10,0",
                          data_cache_path="cache", vocab_size=256, train_iters=5, global_batch_size=8)
said["set"] = batches.build_training_set(args, reads_data=False)
print(json.dumps(said))
"""


def test_the_training_set_is_that_of_the_cases_seed_and_long_enough_for_all_steps() -> None:
    assert answer_of(BUILT) == {
        "sizes": [40, 0, 0],
        "here": False,
        "splits": [[0, 0.9], None, None],
        "seed": 77,
        "length": 32,
        "blend": [["text"], None],
        "cache": "cache",
        "set": "training",
    }
