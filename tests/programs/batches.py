"""Batches of the second of three replicas, from 13 samples in micro-batches of 2."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import torch

from tasks.ranks import batches

NAMES = batches.EMBEDDED + batches.JUDGED
SAMPLES = [
    {name: torch.full((4,), 10 * sample + place) for place, name in enumerate(NAMES)} for sample in range(13)
]
ARGUMENTS = argparse.Namespace(
    micro_batch_size=2, data_parallel_size=3, virtual_pipeline_model_parallel_size=3
)


def _replica() -> list[int]:
    """Be the second replica. Returns where the first token of each pinned tensor is noted."""
    pinned = []
    torch.Tensor.pin_memory = lambda values: pinned.append(int(values[0, 0])) or values
    batches.parallel_state.get_data_parallel_rank = lambda: 1
    return pinned


def _batches(samples: list[dict[str, torch.Tensor]] = SAMPLES, consumed: int = 0) -> batches.Batches:
    return batches.Batches(samples, ARGUMENTS, consumed, batches.EMBEDDED)


def read_in_order() -> dict[str, Any]:
    """All batches, what was pinned of them, and how many 10 samples make."""
    pinned = _replica()
    read = [{name: values.tolist() for name, values in batch.items()} for batch in _batches()]
    return {"read": read, "pinned": list(pinned), "of ten": len(list(_batches(SAMPLES[:10])))}


def read_from_the_middle() -> dict[str, Any]:
    """After 6 consumed samples: a digest by the first and the last chunk, and the batch after it."""
    _replica()
    first, last = (
        batches.Batches(SAMPLES, ARGUMENTS, 6, kind) for kind in (batches.EMBEDDED, batches.JUDGED)
    )
    digests = [first.next_digest(), last.next_digest()]
    return {"digests": digests, "then": next(last)["labels"].tolist()}


def read_ahead() -> list[dict[str, Any]]:
    """Reading ahead three times: what is read so far, and the batch that is taken then."""
    pinned, told = _replica(), []
    ahead = _batches()
    for count in (1, 5, 5):
        ahead.read_ahead(count)
        so_far = list(pinned)
        taken = next(ahead, None)
        told.append({"read so far": so_far, "taken": taken["tokens"].tolist() if taken else None})
    return told


def read_ahead_twice() -> list[int]:
    """The first token of each batch when a second reading ahead asks for more than the first."""
    _replica()
    twice = _batches()
    twice.read_ahead(1)
    twice.read_ahead(2)
    return [int(batch["tokens"][0, 0]) for batch in twice]


def digest_at_the_end() -> str:
    """The name of the error that asking for the digest of no batch raises."""
    _replica()
    ended = _batches()
    list(ended)
    try:
        return ended.next_digest()
    except StopIteration as error:
        return type(error).__name__


def digests_with_and_without_reading_ahead() -> list[str]:
    """The digest of the same batch, not read yet and read ahead."""
    _replica()
    plain, ahead = _batches(), _batches()
    ahead.read_ahead(2)
    return [plain.next_digest(), ahead.next_digest()]


def read_by_stages() -> dict[str, Any]:
    """Names of tensors that each chunk of the first, a middle and the last stage reads."""
    _replica()
    reads, chunks, groups = [], {}, batches.parallel_state
    batches.build_training_set = lambda args, *, reads_data: reads.append(reads_data) or SAMPLES
    for stage in ("first", "middle", "last"):
        groups.is_pipeline_first_stage = lambda *, ignore_virtual, stage=stage: stage == "first"
        groups.is_pipeline_last_stage = lambda *, ignore_virtual, stage=stage: stage == "last"
        iterators = batches.build_iterators(ARGUMENTS, 0)
        chunks[stage] = [list(next(read)) if read else None for read in iterators]
    return {"reads": reads, "chunks": chunks}


def built_training_set() -> dict[str, Any]:
    """Arguments of megatron-core's builder of data sets."""
    given = {}

    def builder(kind: type, sizes: list[int], is_built_here: Any, config: SimpleNamespace) -> SimpleNamespace:
        given.update(sizes=sizes, here=is_built_here(), splits=config.split_matrix, seed=config.random_seed)
        given.update(length=config.sequence_length, blend=config.blend, cache=config.path_to_cache)
        return SimpleNamespace(build=lambda: ("training", None, None))

    batches.GPTDatasetConfig = lambda **values: SimpleNamespace(
        split_matrix=[(0, 0.9), (0.9, 1), None], **values
    )
    batches.BlendedMegatronDatasetBuilder = builder
    arguments = argparse.Namespace(
        seed=77,
        seq_length=32,
        data_path=["text"],
        split="90,10,0",
        data_cache_path="cache",
        vocab_size=256,
        train_iters=5,
        global_batch_size=8,
    )
    return given | {"set": batches.build_training_set(arguments, reads_data=False)}
