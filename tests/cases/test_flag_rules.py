"""The rules between Megatron's flags, on command lines near the main case's."""

from __future__ import annotations

import pytest

from tasks.cases.flag_rules import check_data, missing_on_cpu, training_sequences
from tasks.cases.flags import parse
from tasks.cases.loader import load_case
from tasks.util.exits import UsageError
from tests.cases.main_case import ARGV, parsed, without

HERE = {"platform_name": "cpu_x86_64"}
STAGES, VIRTUAL = "--pipeline-model-parallel-size", "--num-layers-per-virtual-pipeline-stage"
GROUP = "--microbatch-group-size-per-virtual-pipeline-stage"
FIRST, LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ([STAGES, "3"], "8 ranks are not divisible by tensor x pipeline x context parallel = 3"),
        ([STAGES, "16"], "8 ranks are not divisible by tensor x pipeline x context parallel = 16"),
        ([STAGES, "4", "--context-parallel-size", "4"], "8 ranks are not divisible .* = 16"),
        ([STAGES, "1"], "virtual stages need at least 2 pipeline stages, not 1"),
        (["--num-layers", "10"], "10 is not divisible by 4 pipeline stages x 1 layers a virtual"),
        (["--num-virtual-stages-per-pipeline-rank", "3"], f"not with {VIRTUAL}"),
        (["--global-batch-size", "36"], "36 is not divisible by micro-batch 4 x 2 data-parallel"),
        (["--global-batch-size", "40"], "40 gives 5 micro-batches a replica; the interleaved schedule"),
        (["--global-batch-size", "16"], "16 gives 2 micro-batches a replica; the interleaved schedule"),
        (
            ["--global-batch-size", "56", GROUP, "5"],
            "in groups of 5 and leaves a rest of 2, smaller than the 4 pipeline stages",
        ),
        (["--hidden-size", "510"], "--hidden-size: 510 is not divisible by --num-attention-heads 8"),
        (["--seq-length", "2048"], "--seq-length: 2048 is above --max-position-embeddings 1024"),
        (["--min-lr", "0.5"], "--min-lr: 0.5 is above --lr"),
    ],
)
def test_rules_of_every_training_program_of_megatron(more: list[str], rule: str) -> None:
    found = parse([*ARGV, *more], world_size=8)
    assert found.broken
    assert not found.unsupported
    with pytest.raises(UsageError, match=rule):
        parsed(*more)


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (["--eval-interval", "50"], "--eval-interval must exceed"),
        (["--eval-interval", "100"], "--eval-interval must exceed"),
        ([GROUP, "6", "--global-batch-size", "32"], "to that of micro-batches, 4"),
        ([GROUP, "2"], "from the number of stages, 4, to"),
        ([FIRST, "3"], "needs stages of equal size"),
        (["--swiglu", "--hidden-size", "16"], "is 0: give --ffn-hidden-size"),
        (["--decoupled-min-lr", "1e-5"], "needs --decoupled-lr"),
        (
            ["--overlap-p2p-communication-warmup-flush", "--no-overlap-p2p-communication"],
            "--overlap-p2p-communication-warmup-flush needs virtual stages",
        ),
        (
            [STAGES, "2", "--no-overlap-p2p-communication"],
            "--no-overlap-p2p-communication with virtual stages needs more than 2",
        ),
        (["--seed", "4294966996"], "--seed 4294966996 must be at most 4294966995"),
        (["--override-opt_param-scheduler"], "not with --use-checkpoint-opt_param-scheduler"),
        (["--lr-warmup-iters", "3"], "--lr-warmup-iters: not with --lr-warmup-fraction"),
        (["--split", "0,100,0"], "--split 0,100,0 must be up to three shares"),
        (["--split", "all"], "--split all must"),
        (["--split", "1.2.3,1,1"], "--split 1.2.3,1,1 must"),
        (["--split", "1,1,1,1"], "--split 1,1,1,1 must"),
    ],
)
def test_rules_of_our_training_program(more: list[str], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(*more)


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("--use-distributed-optimizer", "--overlap-param-gather needs"),
        ("--overlap-grad-reduce", "--overlap-param-gather needs"),
        ("--async-save", "--use-persistent-ckpt-worker needs --async-save"),
        ("--bf16", "only --bf16 training is supported"),
    ],
)
def test_a_flag_that_others_need_is_there(flag: str, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(argv=without(flag, values=0))


def test_a_reshardable_checkpoint_is_of_the_distributed_optimizer() -> None:
    argv = without("--use-distributed-optimizer", values=0)
    argv.remove("--overlap-param-gather")
    parsed(argv=argv)
    with pytest.raises(UsageError, match="--dist-ckpt-optim-fully-reshardable needs"):
        parsed("--dist-ckpt-optim-fully-reshardable", argv=argv)


def test_stages_may_differ_when_the_rest_can_be_shared_equally() -> None:
    uneven = without(VIRTUAL)
    args = parsed(FIRST, "2", LAST, "2", argv=uneven)
    assert (args.decoder_first_pipeline_num_layers, args.decoder_last_pipeline_num_layers) == (2, 2)
    assert args.virtual_pipeline_model_parallel_size is None
    assert parsed(FIRST, "3", argv=uneven).decoder_last_pipeline_num_layers is None
    for more, layers in (((FIRST, "2", LAST, "3"), 7), ((FIRST, "11", LAST, "1"), 0), ((LAST, "2"), 10)):
        with pytest.raises(UsageError, match=f"the {layers} layers beside"):
            parsed(*more, argv=uneven)
    with pytest.raises(UsageError, match="group-size-per-virtual-pipeline-stage needs"):
        parsed(GROUP, "4", argv=uneven)


def test_groups_of_micro_batches_need_not_be_a_multiple_of_the_stages() -> None:
    args = parsed("--global-batch-size", "40", GROUP, "5")
    assert (args.num_microbatches, args.microbatch_group_size_per_vp_stage) == (5, 5)
    assert parsed("--global-batch-size", "72", GROUP, "5").num_microbatches == 9


def test_one_virtual_stage_is_not_interleaved() -> None:
    """Megatron then needs no number of micro-batches that its stages divide."""
    six = {"global-batch-size": "12"}
    with pytest.raises(UsageError, match="12 gives 6 micro-batches a replica; the interleaved schedule"):
        load_case("gpt3_pp4", **HERE, overrides=six)
    one_virtual_stage = {"num-layers-per-virtual-pipeline-stage": "3"}
    assert load_case("gpt3_pp4", **HERE, overrides=six | one_virtual_stage).model_args


def test_a_warm_up_ends_before_the_decay_does() -> None:
    argv = without("--lr-warmup-fraction")
    decay = ("--lr-decay-iters", "10")
    assert parsed("--lr-warmup-iters", "9", *decay, argv=argv).lr_warmup_iters == 9
    with pytest.raises(UsageError, match="--lr-warmup-iters 10 must be below"):
        parsed("--lr-warmup-iters", "10", *decay, argv=argv)


@pytest.mark.parametrize("split", ["100,0,0", "1", "949,50,1", "969, 30, 1", "0.9,0.1"])
def test_a_split_is_read_as_megatron_core_reads_it(split: str) -> None:
    assert parsed("--split", split).split == split


def test_the_largest_seed_of_the_last_stage_is_numpys() -> None:
    assert parsed("--seed", "4294966995").seed == 4294966995


def test_a_share_of_few_sequences_may_be_none_as_megatron_core_rounds_it() -> None:
    assert [training_sequences("949,50,1", count) for count in (0, 1, 2, 1000)] == [0, 1, 2, 949]
    assert [training_sequences("1,99,0", count) for count in (1, 50, 51, 100)] == [0, 0, 1, 1]
    assert training_sequences("1", 3) == 3


def test_flags_that_a_cpu_needs_are_named() -> None:
    assert missing_on_cpu(parsed()) == [
        "a CPU needs --distributed-backend gloo",
        "a CPU needs --transformer-impl local",
        "a CPU needs --no-persist-layer-norm",
    ]
    more = ["--distributed-backend", "gloo", "--transformer-impl", "local", "--no-persist-layer-norm"]
    assert missing_on_cpu(parsed(*more)) == []
    fused = parsed(*more, argv=without("--no-gradient-accumulation-fusion", values=0))
    assert missing_on_cpu(fused) == ["a CPU needs --no-gradient-accumulation-fusion"]


def test_a_corpus_is_the_only_text_that_is_trained_on() -> None:
    with pytest.raises(UsageError, match=r"'/my/own' would not be read.* give --data-path PREFIX"):
        load_case("gpt3_pp4", **HERE, overrides={"data-path": "/my/own"})
    assert load_case("gpt3_pp4", **HERE, overrides={"data-path": "${CORPUS_PREFIX}"}).corpus
    assert check_data({"--data-path": "/my/own"}, None) == []
    assert load_case("gpt3_pp4_resume_common_pile", **HERE).corpus is None
