"""Micro-batches of real text: megatron-core's GPT dataset, Megatron's order of samples."""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

import torch
from megatron.core import parallel_state
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import get_blend_from_list

Batch = dict[str, torch.Tensor]
EMBEDDED = ("tokens", "position_ids")  # used by the first chunk of the pipeline
JUDGED = ("labels", "loss_mask")  # used by the last chunk


class ByteTokenizer:
    """The tokens as the dataset needs them: bytes 0 to 255, and one token that ends a document."""

    def __init__(self, vocab_size: int) -> None:
        self.eod = vocab_size
        self.vocab_size = vocab_size + 1
        self.pad = -1
        self.unique_identifiers = OrderedDict({"class": "ByteTokenizer", "vocab_size": vocab_size})


def build_training_set(args: argparse.Namespace, *, reads_data: bool) -> GPTDataset | None:
    """The training split, ``train_iters * global_batch_size`` samples of ``seq_length`` tokens.

    Every rank must call this, since building the shared index is a collective; None where no data is read.
    """
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=get_blend_from_list(args.data_path),
        split=args.split,
        path_to_cache=args.data_cache_path,
        tokenizer=ByteTokenizer(args.vocab_size),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    # Nothing is evaluated, and megatron-core never ends building the index of a split without documents.
    config.split_matrix = [config.split_matrix[0], None, None]
    sizes = [args.train_iters * args.global_batch_size, 0, 0]
    training, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: reads_data, config).build()
    return training


class Batches(Iterator[Batch]):
    """This replica's micro-batches from a given sample on: the tensors of ``names``, each of shape
    (micro-batch, sequence), in memory from which a device copies without the host waiting for it.

    Replica r of step s takes its micro-batches from a run of ``micro_batch_size * replicas`` samples, the
    r-th part of it, as Megatron's sequential sampler does.
    """

    def __init__(
        self, dataset: GPTDataset, args: argparse.Namespace, consumed_samples: int, names: Sequence[str]
    ) -> None:
        self._dataset = dataset
        self._names = names
        self._size = args.micro_batch_size
        self._stride = args.micro_batch_size * args.data_parallel_size
        self._offset = parallel_state.get_data_parallel_rank() * args.micro_batch_size
        self._position = consumed_samples
        self._ahead: deque[Batch] = deque()

    def __next__(self) -> Batch:
        self.read_ahead(1)
        if not self._ahead:
            raise StopIteration
        self._position += self._stride
        return self._ahead.popleft()

    def read_ahead(self, count: int) -> None:
        """Read the next ``count`` micro-batches ahead, or as many as are left."""
        position = self._position + len(self._ahead) * self._stride
        while len(self._ahead) < count and self._is_whole(position):
            batch = self._read(self._names, position)
            self._ahead.append({name: values.pin_memory() for name, values in batch.items()})
            position += self._stride

    def _is_whole(self, position: int) -> bool:
        return position + self._offset + self._size <= len(self._dataset)

    def _read(self, names: Sequence[str], position: int) -> Batch:
        first = position + self._offset
        samples = [self._dataset[index] for index in range(first, first + self._size)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in names}

    def next_digest(self) -> str:
        """SHA-256 of the next batch's tokens; the batch is not consumed.

        Raises:
            StopIteration: there is no next batch.
        """
        if not self._is_whole(self._position):
            raise StopIteration
        return hashlib.sha256(self._read(["tokens"], self._position)["tokens"].numpy().tobytes()).hexdigest()


def build_iterators(args: argparse.Namespace, consumed_samples: int) -> list[Batches | None]:
    """One iterator a chunk; only the first chunk and the last one of the pipeline read data."""
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    dataset = build_training_set(args, reads_data=first or last)
    names: list[tuple[str, ...]] = [()] * (args.virtual_pipeline_model_parallel_size or 1)
    names[0] += EMBEDDED if first else ()
    names[-1] += JUDGED if last else ()
    return [Batches(dataset, args, consumed_samples, each) if each else None for each in names]
