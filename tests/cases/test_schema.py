"""Rules for the keys of a case file; test_loader.py has those for flags."""

from __future__ import annotations

import pytest

from tasks.cases.schema import check_shape

CASE = {"MODEL_ARGS": {"--lr": 0.01}, "METRICS": ["lm loss"]}


def errors(**keys: object) -> list[str]:
    return check_shape({**CASE, **keys})


@pytest.mark.parametrize(
    ("restart", "error"),
    [
        ("four", "RESTART: must be a mapping of MODEL_ARGS and RANKS"),
        ({"RANK": 4}, "RESTART.RANK: unknown key. Did you mean RANKS?"),
        ({"RANKS": 0}, "RESTART.RANKS: 0 must be a whole number of at least 1"),
        ({"RANKS": True}, "RESTART.RANKS: True must be a whole number of at least 1"),
        ({"MODEL_ARGS": ["--lr"]}, "RESTART.MODEL_ARGS: must be a mapping of flags to values"),
        ({"MODEL_ARGS": {"lr": 1}}, "RESTART.MODEL_ARGS.lr: a flag is two dashes and lower-case words."),
    ],
)
def test_a_restart_that_cannot_be_is_named(restart: object, error: str) -> None:
    (found,) = errors(RESTART=restart, TEST_TYPE="ckpt-resume")
    assert found.startswith(error)


def test_only_a_case_that_restarts_has_changes_for_its_restart() -> None:
    good = {"RANKS": 4, "MODEL_ARGS": {"--no-load-rng": True}}
    assert errors(RESTART=good, TEST_TYPE="ckpt-resume") == []
    (found,) = errors(RESTART=good, TEST_TYPE="regular")
    assert found == "RESTART: TEST_TYPE regular has no restart in other processes; see ckpt-resume"


@pytest.mark.parametrize("folder", [None, 7, "/kept", "../kept", "kept/", "kept checkpoint", "a/.."])
def test_the_kept_checkpoint_is_a_folder_below_the_repository(folder: object) -> None:
    (found,) = errors(CHECKPOINT=folder, TEST_TYPE="frozen-resume")
    assert found.startswith("CHECKPOINT: must be a folder below the repository")


def test_only_a_frozen_case_has_a_kept_checkpoint() -> None:
    assert errors(CHECKPOINT="checkpoints/some_case", TEST_TYPE="frozen-resume") == []
    (found,) = errors(CHECKPOINT="checkpoints/some_case", TEST_TYPE="ckpt-resume")
    assert found == "CHECKPOINT: only of TEST_TYPE frozen-resume, not ckpt-resume"


def test_a_case_has_a_test_type() -> None:
    found = check_shape({"MODEL_ARGS": {}, "METRICS": ["lm loss"]})
    assert found == ["TEST_TYPE: is missing. Known: regular, ckpt-resume, crash-resume, frozen-resume."]


def test_an_empty_list_is_no_value() -> None:
    """--bf16: [] is not the same as true."""
    (found,) = check_shape({**CASE, "MODEL_ARGS": {"--bf16": []}, "TEST_TYPE": "regular"})
    assert found == "MODEL_ARGS.--bf16: an empty list is no value: null removes the flag"


@pytest.mark.parametrize(
    "name", ["cpu_x86", "cpu_x86_64_x2", "cpu_x86_6?_", "gpu_h100", "gpu3_h100", "gpu1_[ab]"]
)
def test_a_name_that_no_platform_has_is_refused(name: str) -> None:
    (found,) = errors(PLATFORMS={name: {"MODEL_ARGS": {"--lr": 1}}}, TEST_TYPE="regular")
    assert found.startswith(f"PLATFORMS.{name}: is no platform")


@pytest.mark.parametrize(
    "name", ["cpu_*", "cpu_aarch64", "cpu_x86_6?", "gpu8_*_x2", "dgx_*_x2", "gpu1_h100_pcie"]
)
def test_names_and_patterns_of_platforms(name: str) -> None:
    assert errors(PLATFORMS={name: {"MODEL_ARGS": {"--lr": 1}}}, TEST_TYPE="regular") == []


@pytest.mark.parametrize("name", [None, "", ["a"]])
def test_a_golden_card_is_of_a_case(name: object) -> None:
    (found,) = errors(GOLDEN_CARD=name, TEST_TYPE="regular")
    assert found.startswith("GOLDEN_CARD: must be the name of the case")


def test_a_variable_is_text() -> None:
    """1.10 would be passed on as 1.1."""
    good = {"A": 1, "B": "1.10", "C": None}
    assert errors(ENV_VARS=good, TEST_TYPE="regular") == []
    (found,) = errors(ENV_VARS={"A": 1.10}, TEST_TYPE="regular")
    assert found == "ENV_VARS.A: 1.1 is a number, but a variable is text: put it in quotes"


def test_a_misspelt_inheritance_is_recognised() -> None:
    (found,) = errors(INHERITS="gpt3_pp4", TEST_TYPE="regular")
    assert found == "INHERITS: unknown key. Did you mean INHERIT?"
