"""A case as one platform runs it: command line, substitution, digest, restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.util.exits import UsageError
from tests.cases.small_case import CONTENT, changed, load, write_case


def test_flags_are_megatrons_command_line(tmp_path: Path) -> None:
    args = {
        "--bf16": True,
        "--fp16": False,
        "--data-path": ["0.5", "a b"],
        "--optimizer": None,
        "--min-lr": 1.0e-5,
    }
    case = load(write_case(tmp_path, changed(MODEL_ARGS=args)))
    argv = case.argv()
    assert argv[argv.index("--bf16") + 1].startswith("--")
    assert "--fp16" not in argv
    assert "--optimizer" not in argv
    assert argv[argv.index("--data-path") + 1 :][:2] == ["0.5", "a b"]
    assert float(argv[argv.index("--min-lr") + 1]) == 1e-5


def test_names_are_put_in_and_nothing_else_happens(tmp_path: Path) -> None:
    args = {"--save": "${SAVE}/x", "--data-path": ["${SAVE}", "$HOME", "$(id)", "`id`"]}
    case = load(write_case(tmp_path, changed(MODEL_ARGS=args, ENV_VARS={"CACHE": "${SAVE}"})))
    put_in = case.substitute({"SAVE": "/tmp/${OTHER}"})
    assert put_in.model_args["--save"] == "/tmp/${OTHER}/x"
    assert put_in.model_args["--data-path"] == ["/tmp/${OTHER}", "$HOME", "$(id)", "`id`"]
    assert put_in.env_vars["CACHE"] == "/tmp/${OTHER}"
    assert case.model_args["--save"] == "${SAVE}/x", "the case itself was changed"


def test_all_unset_names_are_reported_together(tmp_path: Path) -> None:
    case = load(write_case(tmp_path, changed(MODEL_ARGS={"--save": "${SAVE}", "--load": "${LOAD}"})))
    assert case.names_needed() == ("LOAD", "SAVE")
    with pytest.raises(UsageError, match=r"\$\{LOAD\}, \$\{SAVE\}"):
        case.substitute({})


def test_digest_follows_what_is_computed_only(tmp_path: Path) -> None:
    args = {"--save": "${SAVE}", "--tensorboard-dir": "a", "--exit-interval": 5, "--data-cache-path": "b"}
    case = load(write_case(tmp_path, changed(MODEL_ARGS=args)))
    assert case.substitute({"SAVE": "/somewhere"}).digest == case.digest
    plain = load(write_case(tmp_path / "plain", CONTENT))
    assert plain.digest == case.digest, "a path changed the digest"
    metrics = load(write_case(tmp_path / "metrics", changed(METRICS=["num-zeros"])))
    assert metrics.digest == plain.digest
    assert load(tmp_path / "plain", overrides={"seed": "7"}).digest != plain.digest
    variable = load(write_case(tmp_path / "variable", changed(ENV_VARS={"NCCL_ALGO": "Tree"})))
    assert variable.digest != plain.digest


def test_the_restart_may_have_other_flags_and_fewer_ranks(tmp_path: Path) -> None:
    flags = {"--pipeline-model-parallel-size": 2, "--no-load-rng": True, "--lr": 0.02}
    case = load(write_case(tmp_path, changed(RESTART={"RANKS": 4, "MODEL_ARGS": flags})))
    plain = load(write_case(tmp_path / "plain", CONTENT))
    assert (case.restart.ranks, case.argv()) == (4, plain.argv())
    assert case.digest == plain.digest
    argv = case.restarted().argv()
    assert argv[argv.index("--pipeline-model-parallel-size") + 1] == "2"
    assert "--no-load-rng" in argv
    assert plain.restarted() == plain
    assert case.resolved()["restart"] == {"ranks": 4, "model_args": flags}


def test_the_command_line_is_parsed_once_and_anew_for_the_restart(tmp_path: Path) -> None:
    needed = {"--vocab-size": 256, "--data-path": "text", "--bf16": True, "--min-lr": 0.0}
    restart = {"RANKS": 4, "MODEL_ARGS": {"--pipeline-model-parallel-size": 2}}
    case = load(write_case(tmp_path, changed(MODEL_ARGS=needed, RESTART=restart)))
    assert case.arguments is case.arguments
    assert (case.arguments.world_size, case.arguments.data_parallel_size) == (8, 2)
    restarted = case.restarted().arguments
    assert (restarted.world_size, restarted.data_parallel_size) == (4, 2)
    assert restarted.pipeline_model_parallel_size == 2


def test_flags_that_our_training_program_does_not_support_have_no_arguments(tmp_path: Path) -> None:
    """Megatron-LM's own program may run such a case."""
    case = load(write_case(tmp_path, changed(MODEL_ARGS={"--fp8-format": "hybrid"})))
    assert case.parsed.arguments is None
    with pytest.raises(UsageError, match=r"model_config\.yaml: Megatron flags: unknown flag --fp8-format"):
        _ = case.arguments
