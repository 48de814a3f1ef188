"""Values of Megatron's flags that are refused before a rank starts."""

from __future__ import annotations

import pytest

from tasks.cases.argument_values import broken_on_cpu, training_sequences
from tasks.cases.case import load_case
from tasks.cases.flags import parse_arguments
from tasks.util.exits import UsageError

WORDS = load_case("gpt3_pp4_resume", platform_name="dgx_a100").flags()


def parsed(*more: str, without: str = ""):
    """The main case with more flags; ``without``: a flag of it that is taken away, with its value."""
    words = list(WORDS)
    if without:
        place = words.index(without)
        del words[place : place + 2]
    return parse_arguments([*words, *more], world_size=8)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--seed", "0"], "--seed 0 must be at least 1, at most 4294966995"),
        (["--seed", "-1"], "--seed -1 must"),
        (["--seed", "4294966996"], "--seed 4294966996 must"),
        (["--lr", "nan"], "--lr nan must"),
        (["--ffn-hidden-size", "0"], "--ffn-hidden-size 0 must be at least 1$"),
        (["--attention-dropout", "1.5"], "--attention-dropout 1.5 must be at least 0, at most 1"),
        (["--hidden-dropout", "-0.1"], "--hidden-dropout -0.1 must"),
        (["--exit-interval", "-2"], "--exit-interval -2 must"),
        (["--distributed-timeout-minutes", "0"], "--distributed-timeout-minutes 0 must"),
        (["--override-opt_param-scheduler"], "not with --use-checkpoint-opt_param-scheduler"),
        (["--lr-warmup-iters", "3"], "--lr-warmup-iters: not with --lr-warmup-fraction"),
        (["--lr-warmup-fraction", "1"], "--lr-warmup-fraction 1.0 must be at least 0, below 1"),
        (["--split", "0,100,0"], "--split 0,100,0 must be up to three shares"),
        (["--split", "all"], "--split all must"),
        (["--split", "1.2.3,1,1"], "--split 1.2.3,1,1 must"),
        (["--split", "1,1,1,1"], "--split 1,1,1,1 must"),
    ],
)
def test_a_value_that_only_a_rank_would_refuse_is_named(words: list[str], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        parsed(*words)


def test_a_warm_up_ends_before_the_decay_does() -> None:
    fraction, decay = "--lr-warmup-fraction", ("--lr-decay-iters", "10")
    assert parsed("--lr-warmup-iters", "9", *decay, without=fraction).lr_warmup_iters == 9
    with pytest.raises(UsageError, match="--lr-warmup-iters 10 must be below"):
        parsed("--lr-warmup-iters", "10", *decay, without=fraction)


@pytest.mark.parametrize("split", ["100,0,0", "1", "949,50,1", "969, 30, 1", "0.9,0.1"])
def test_a_split_is_read_as_megatron_core_reads_it(split: str) -> None:
    assert parsed("--split", split).split == split
    assert parsed("--seed", "4294966995", "--exit-interval", "0").seed == 4294966995


def test_what_only_a_gpu_has_is_named_with_the_flag_that_does_without() -> None:
    assert broken_on_cpu(parsed()) == [
        "a CPU needs --distributed-backend gloo",
        "a CPU needs --transformer-impl local",
        "a CPU needs --no-persist-layer-norm",
    ]
    more = ["--distributed-backend", "gloo", "--transformer-impl", "local", "--no-persist-layer-norm"]
    assert broken_on_cpu(parsed(*more)) == []
    words = [word for word in [*WORDS, *more] if word != "--no-gradient-accumulation-fusion"]
    assert broken_on_cpu(parse_arguments(words, world_size=8)) == [
        "a CPU needs --no-gradient-accumulation-fusion"
    ]


def test_a_share_of_few_sequences_may_be_none_as_megatron_core_rounds_it() -> None:
    assert [training_sequences("949,50,1", count) for count in (0, 1, 2, 1000)] == [0, 1, 2, 949]
    assert [training_sequences("1,99,0", count) for count in (1, 50, 51, 100)] == [0, 0, 1, 1]
    assert training_sequences("1", 3) == 3
