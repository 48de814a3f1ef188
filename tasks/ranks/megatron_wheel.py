"""A ``pretrain_gpt.py`` for a wheel that carries Megatron-LM's training loop but not that file.

Model, optimizer, data loaders, loop, logging and checkpoints are the wheel's own. This file adds what a user
of ``megatron.training.pretrain`` has to provide: the datasets and one forward step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.enums import ModelType
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args, pretrain
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args
from megatron.training.utils import get_blend_and_blend_per_split, is_first_or_last_pipeline_stage

from tasks.ranks.forward import loss_sum

BATCH = ("tokens", "labels", "loss_mask", "position_ids")


def token_loss(loss_mask: torch.Tensor, token_losses: torch.Tensor) -> tuple[Any, ...]:
    """Loss sum, token count, and the values that Megatron-LM logs."""
    total, tokens, report = loss_sum(loss_mask, token_losses)
    return total, tokens, {"lm loss": report}


def forward_step(iterator: Any, model: Any) -> tuple[torch.Tensor, Any]:
    """One micro-batch; chunks inside the pipeline need no data."""
    batch: dict[str, Any] = dict.fromkeys(BATCH)
    if is_first_or_last_pipeline_stage(get_attr_wrapped_model(model, "vp_stage")):
        batch = {
            name: values.cuda(non_blocking=True) for name, values in next(iterator).items() if name in BATCH
        }
    output = model(
        batch["tokens"], batch["position_ids"], None, labels=batch["labels"], loss_mask=batch["loss_mask"]
    )
    return output, partial(token_loss, batch["loss_mask"])


def datasets(samples: list[int], vp_stage: int | None = None) -> tuple[Any, ...]:
    """Train, validation and test data; ``samples``: how many of each."""
    args = get_args()
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=blend_per_split,
        split=args.split,
        path_to_cache=args.data_cache_path,
        tokenizer=build_tokenizer(args),
        reset_position_ids=args.reset_position_ids,
        reset_attention_mask=args.reset_attention_mask,
        eod_mask_loss=args.eod_mask_loss,
        create_attention_mask=False,
    )
    kind = MockGPTDataset if args.mock_data else GPTDataset
    needed = partial(is_first_or_last_pipeline_stage, vp_stage)
    return BlendedMegatronDatasetBuilder(kind, samples, needed, config).build()


def embedding_ranks(stages: list[int]) -> list[int]:
    """The first stage, and the last, which shares its weights or owns the output layer."""
    tied = not get_args().untie_embeddings_and_output_weights
    return sorted({stages[0], *([stages[-1]] if tied else [])})


def main() -> None:
    """Read the command line, train."""
    args = parse_and_validate_args(args_defaults={"tokenizer_type": "GPT2BPETokenizer"})
    config = pretrain_cfg_container_from_args(args, gpt_config_from_args(args))
    datasets.is_distributed = True
    pretrain(
        config, datasets, ModelType.encoder_or_decoder, forward_step, get_embedding_ranks=embedding_ranks
    )


if __name__ == "__main__":
    main()
