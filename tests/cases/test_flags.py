"""Megatron's flags as the training program takes them."""

from __future__ import annotations

import pytest

from tasks.cases.case import load_case
from tasks.cases.flags import parse_arguments
from tasks.util.exits import UsageError

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
        (["--microbatch-group-size-per-virtual-pipeline-stage", "3"], "from the number of stages, 4, to"),
        (["--microbatch-group-size-per-virtual-pipeline-stage", "5"], "to that of micro-batches, 4"),
        (["--decoder-first-pipeline-num-layers", "3"], "needs stages of equal size"),
        (["--swiglu", "--hidden-size", "16"], "is 0: give --ffn-hidden-size"),
        (["--decoupled-min-lr", "1e-5"], "needs --decoupled-lr"),
        (
            ["--overlap-p2p-communication-warmup-flush", "--no-overlap-p2p-communication"],
            "--overlap-p2p-communication-warmup-flush needs virtual stages",
        ),
        (
            ["--pipeline-model-parallel-size", "2", "--no-overlap-p2p-communication"],
            "--no-overlap-p2p-communication with virtual stages needs more than 2",
        ),
        (["--lr-warmup-fraction", "nan"], "--lr-warmup-fraction nan: must be a finite number"),
        (["--adam-eps", "1e400"], "--adam-eps inf: must be a finite number"),
        (["--bf16", "no"], r"--bf16: 'no' is more than it takes \(a switch is true or false\)"),
        (["--split", "949", "50", "1"], "--split: '50' is more than it takes"),
    ],
)
def test_a_broken_rule_is_named(words: list[str], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(*words)


def test_overlapped_gathering_needs_the_distributed_optimizer() -> None:
    words = [word for word in WORDS if word != "--use-distributed-optimizer"]
    with pytest.raises(UsageError, match="--overlap-param-gather needs"):
        parse_arguments(words, world_size=8)


def uneven(*more: str):
    """The main case without virtual stages."""
    words = list(WORDS)
    place = words.index("--num-layers-per-virtual-pipeline-stage")
    return parse_arguments([*words[:place], *words[place + 2 :], *more], world_size=8)


def test_stages_may_differ_when_the_rest_can_be_shared_equally() -> None:
    first, last = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
    args = uneven(first, "2", last, "2")
    assert (args.decoder_first_pipeline_num_layers, args.decoder_last_pipeline_num_layers) == (2, 2)
    assert args.virtual_pipeline_model_parallel_size is None
    assert uneven(first, "3").decoder_last_pipeline_num_layers is None
    for words, layers in (((first, "2", last, "3"), 7), ((first, "11", last, "1"), 0), ((last, "2"), 10)):
        with pytest.raises(UsageError, match=f"the {layers} layers beside"):
            uneven(*words)
    with pytest.raises(UsageError, match="group-size-per-virtual-pipeline-stage needs"):
        uneven("--microbatch-group-size-per-virtual-pipeline-stage", "4")


def test_micro_batches_in_groups_need_not_be_a_multiple_of_the_stages() -> None:
    group = "--microbatch-group-size-per-virtual-pipeline-stage"
    args = parsed("--global-batch-size", "40", group, "5")
    assert (args.num_microbatches, args.microbatch_group_size_per_vp_stage) == (5, 5)
    assert parsed("--global-batch-size", "72", group, "5").num_microbatches == 9
    with pytest.raises(UsageError, match="7 micro-batches in groups of 5 leave a rest smaller than"):
        parsed("--global-batch-size", "56", group, "5")


def test_a_gated_feed_forward_network_is_two_thirds_as_wide_in_multiples_of_64() -> None:
    assert parsed("--swiglu").ffn_hidden_size == 1344
    assert parsed("--swiglu", "--ffn-hidden-size", "48").ffn_hidden_size == 48


def test_a_bias_that_is_not_there_is_not_fused_with_its_activation() -> None:
    args = parsed("--disable-bias-linear")
    assert (args.add_bias_linear, args.bias_gelu_fusion) == (False, False)
    assert (parsed().add_bias_linear, parsed().bias_gelu_fusion) == (True, True)
    assert not parsed("--no-bias-gelu-fusion").bias_gelu_fusion


def test_gathers_need_not_be_aligned_either() -> None:
    assert parsed("--align-param-gather").align_param_gather
    assert not parsed("--no-align-param-gather").align_param_gather


def test_one_virtual_stage_is_no_interleaving() -> None:
    """As in Megatron: the schedule without virtual stages, and what goes with it."""
    args = parsed("--num-layers-per-virtual-pipeline-stage", "3", "--align-param-gather")
    assert args.virtual_pipeline_model_parallel_size is None
    assert not args.align_param_gather
    more = ["--num-layers-per-virtual-pipeline-stage", "3", "--global-batch-size", "40"]
    assert parsed(*more).num_microbatches == 5
