"""The table of Megatron's flags: types, ranges, choices, and what is derived from a command line."""

from __future__ import annotations

import pytest

from tasks.cases.flags import FLAGS, Number, broken_divisors, parse, value_error
from tasks.util.exits import UsageError
from tests.cases.main_case import ARGV, parsed, without


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
    assert parsed().add_bias_linear
    assert not parsed("--disable-bias-linear").add_bias_linear


def test_every_unknown_flag_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError) as error:
        parsed("--overlap-gradreduce", "--hidden-sizes", "3")
    assert "--overlap-gradreduce: did you mean --overlap-grad-reduce?" in str(error.value)
    assert "--hidden-sizes: did you mean --hidden-size?" in str(error.value)


@pytest.mark.parametrize("flag", ["--context-parallel-size", "--num-virtual-stages-per-pipeline-rank"])
def test_a_flag_of_megatron_that_our_program_does_not_support_is_unknown_to_it(flag: str) -> None:
    argv = without("--num-layers-per-virtual-pipeline-stage")
    assert any(flag in line for line in parse([*argv, flag, "1"], world_size=8).unsupported)
    assert flag in FLAGS


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (["--num-layers", "twelve"], "--num-layers: 'twelve' must be a whole number of at least 1"),
        (["--micro-batch-size", "0"], "--micro-batch-size: '0' must be a whole number of at least 1"),
        (["--seed", "0"], "--seed: '0' must be a whole number of at least 1"),
        (["--seed", "-1"], "--seed: '-1' must"),
        (["--lr", "nan"], "--lr: 'nan' must be a finite number of at least 0"),
        (["--lr-warmup-fraction", "nan"], "--lr-warmup-fraction: 'nan' must be a finite number"),
        (["--lr-warmup-fraction", "1"], "--lr-warmup-fraction: '1' must be .* of at least 0, below 1"),
        (["--adam-eps", "1e400"], "--adam-eps: '1e400' must be a finite number"),
        (["--ffn-hidden-size", "0"], "--ffn-hidden-size: '0' must be a whole number of at least 1$"),
        (["--attention-dropout", "1.5"], "--attention-dropout: '1.5' must be .* of at least 0, at most 1"),
        (["--hidden-dropout", "-0.1"], "--hidden-dropout: '-0.1' must"),
        (["--exit-interval", "-2"], "--exit-interval: '-2' must"),
        (["--distributed-timeout-minutes", "0"], "--distributed-timeout-minutes: '0' must"),
        (["--ckpt-format", "zarr"], "--ckpt-format: 'zarr' is not supported, only torch_dist"),
        (["--tensor-model-parallel-size", "2"], "--tensor-model-parallel-size: 2 is not supported, only 1"),
        (["--bf16", "no"], "'no' is more than the flag before it takes"),
        (["--split", "949", "50", "1"], "'50' is more than the flag before it takes"),
    ],
)
def test_a_value_that_breaks_the_rule_of_its_flag_is_named(more: list[str], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(*more)


def test_all_that_our_program_does_not_support_is_reported_together() -> None:
    argv = [word for word in ARGV if word not in ("--bf16", "--data-path", "${CORPUS_PREFIX}")]
    error = "; ".join(parse([*argv, "--ckpt-format", "zarr"], world_size=8).unsupported)
    for line in ("--data-path: is missing", "--ckpt-format: 'zarr'", "only --bf16 training"):
        assert line in error


@pytest.mark.parametrize(
    ("flag", "value", "error"),
    [
        ("--seed", 7, None),
        ("--seed", None, None),
        ("--seed", "7", "'7' must be a whole number of at least 1"),
        ("--seed", 7.0, "7.0 must be a whole number of at least 1"),
        ("--seed", True, "True must be a whole number of at least 1"),
        ("--seed", [7], "[7] must be a whole number of at least 1"),
        ("--lr", 1, None),
        ("--lr", False, "False must be a finite number of at least 0"),
        ("--bf16", False, None),
        ("--bf16", "no", "'no' is more than it takes: true or false"),
        ("--split", "1,1,1", None),
        ("--split", [949, 50, 1], "[949, 50, 1] must be one value"),
        ("--save", True, "True must be one value"),
        ("--save", False, None),
        ("--data-path", ["0.5", "a"], None),
        ("--fp8-format", ["anything"], None),
    ],
)
def test_a_value_of_a_case_file_has_the_type_of_its_flag(flag: str, value: object, error: str | None) -> None:
    assert value_error(flag, value) == error


def test_a_number_of_any_size_is_compared() -> None:
    assert Number(whole=True, least=1).contains(10**400)
    assert not Number().contains(float("inf"))
    assert not Number().contains(-float("inf"))
    assert not Number(least=0).contains(float("nan"))


def test_sizes_below_1_are_divisors_of_no_program() -> None:
    sizes = {"--micro-batch-size": 0, "--num-layers": 12, "--exit-interval": 0, "--context-parallel-size": -1}
    assert broken_divisors({**sizes, "--hidden-size": "${HIDDEN}", "--of-theirs": 0}) == [
        "--micro-batch-size: 0 must be a whole number of at least 1",
        "--context-parallel-size: -1 must be a whole number of at least 1",
    ]


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
    assert not parsed().align_param_gather


def test_one_virtual_stage_is_no_interleaving() -> None:
    """As in Megatron: the schedule without virtual stages, and what goes with it."""
    args = parsed("--num-layers-per-virtual-pipeline-stage", "3", "--align-param-gather")
    assert args.virtual_pipeline_model_parallel_size is None
    assert not args.align_param_gather
    args = parsed("--num-layers-per-virtual-pipeline-stage", "3", "--global-batch-size", "40")
    assert args.num_microbatches == 5
