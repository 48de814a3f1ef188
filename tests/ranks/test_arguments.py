"""Megatron's flags as the training program takes them."""

from __future__ import annotations

import pytest

from tasks.case import load_case
from tasks.exits import UsageError
from tasks.ranks.arguments import parse_arguments

WORDS = load_case("gpt3_pp4_resume", platform_name="dgx_a100").flags()


def parsed(*more: str, world_size: int = 8):
    return parse_arguments([*WORDS, *more], world_size=world_size)


def test_upstreams_model_is_derived_from_its_flags() -> None:
    args = parsed()
    assert (args.data_parallel_size, args.num_microbatches) == (2, 4)
    assert args.virtual_pipeline_model_parallel_size == 3
    assert (args.end_of_document, args.padded_vocab_size) == (256, 50304)
    assert args.ffn_hidden_size == 2048
    assert args.accumulate_allreduce_grads_in_fp32
    assert parsed(world_size=4).num_microbatches == 8


def test_a_switch_with_no_in_front_turns_its_default_off() -> None:
    assert not parsed().gradient_accumulation_fusion
    assert parsed().align_grad_reduce
    assert not parsed("--no-align-grad-reduce").align_grad_reduce


def test_every_unknown_flag_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError) as error:
        parsed("--overlap-gradreduce", "--hidden-sizes", "3")
    assert "--overlap-gradreduce: did you mean --overlap-grad-reduce?" in str(error.value)
    assert "--hidden-sizes: did you mean --hidden-size?" in str(error.value)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--num-layers", "10"], "--num-layers 10 is not a multiple of 4 pipeline stages x 1"),
        (["--global-batch-size", "36"], "--global-batch-size 36 is not a multiple of micro-batch size 4 x 2"),
        (["--global-batch-size", "40"], "number of micro-batches that the stages divide"),
        (["--hidden-size", "510"], "not a multiple of --num-attention-heads"),
        (["--seq-length", "2048"], "--seq-length exceeds"),
        (["--eval-interval", "50"], "--eval-interval must exceed"),
        (["--num-layers", "twelve"], "invalid int value"),
        (["--ckpt-format", "zarr"], "invalid choice"),
    ],
)
def test_a_broken_rule_is_named(words: list[str], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(*words)


def test_overlapped_gathering_needs_the_distributed_optimizer() -> None:
    words = [word for word in WORDS if word != "--use-distributed-optimizer"]
    with pytest.raises(UsageError, match="--overlap-param-gather needs"):
        parse_arguments(words, world_size=8)
