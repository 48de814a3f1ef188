"""Values of PLATFORMS over a case's own, and those of its own that have no effect."""

from __future__ import annotations

import pytest

from tasks.cases import loader
from tasks.cases.overlays import laid_over, overridden

BASE = {
    "MODEL_ARGS": {"--lr": 0.1, "--seed": 1},
    "ENV_VARS": {"NCCL_ALGO": "Ring"},
    "PLATFORMS": {"cpu_x86_64": {"MODEL_ARGS": {"--lr": 0.5}, "ENV_VARS": {"NCCL_ALGO": "Tree"}}},
}


def lines(*contents: dict, platform_name: str = "cpu_x86_64", given: tuple[str, ...] = ()) -> list[str]:
    """``contents``: the base first, then its heirs, named one, two, ..."""
    names = ["base", "one", "two"][: len(contents)]
    chain = list(zip(names, contents, strict=True))[::-1]
    return [str(line) for line in overridden(chain, loader.merged(chain), platform_name, given=given)]


def test_a_case_may_lie_over_itself() -> None:
    assert lines(BASE) == []
    assert laid_over(BASE, "cpu_x86_64") == ({"--lr": 0.5, "--seed": 1}, {"NCCL_ALGO": "Tree"})
    assert laid_over(BASE, "dgx_a100")[0]["--lr"] == 0.1


def test_an_inherited_entry_over_an_heirs_value_is_reported() -> None:
    heir = {"MODEL_ARGS": {"--lr": 0.001, "--seed": 2}, "ENV_VARS": {"NCCL_ALGO": "CollNet"}}
    assert lines(BASE, heir) == [
        "--lr: 0.001 of one has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5",
        'NCCL_ALGO: "CollNet" of one has no effect: base, PLATFORMS.cpu_x86_64 sets "Tree"',
    ]
    assert lines(BASE, heir, platform_name="dgx_a100") == []


def test_null_takes_nothing_away_that_an_entry_gives() -> None:
    assert lines(BASE, {"MODEL_ARGS": {"--lr": None}}) == [
        "--lr: null of one has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5"
    ]


def test_a_value_that_holds_all_the_same_is_not_reported() -> None:
    assert lines(BASE, {"MODEL_ARGS": {"--lr": 0.5}}) == []


def test_an_heir_may_lie_over_what_it_inherits() -> None:
    own_entry = {"MODEL_ARGS": {"--lr": 0.2}, "PLATFORMS": {"cpu_x86_64": {"MODEL_ARGS": {"--lr": 0.3}}}}
    assert lines(BASE, own_entry) == []
    assert lines(BASE, {"MODEL_ARGS": {"--lr": 0.2}, "PLATFORMS": None}) == []


def test_an_heirs_pattern_is_weaker_than_an_inherited_name() -> None:
    heir = {"PLATFORMS": {"cpu_*": {"MODEL_ARGS": {"--lr": 0.3}}}}
    assert lines(BASE, heir) == [
        "--lr: 0.3 of one, PLATFORMS.cpu_* has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5"
    ]


def test_a_value_of_a_case_in_between_counts() -> None:
    assert lines(BASE, {"MODEL_ARGS": {"--lr": 0.2}}, {"MODEL_ARGS": {"--seed": 3}}) == [
        "--lr: 0.2 of one has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5"
    ]
    overridden_by_the_heir = {"PLATFORMS": {"cpu_x86_64": {"MODEL_ARGS": {"--lr": 0.4}}}}
    assert lines(BASE, {"MODEL_ARGS": {"--lr": 0.2}}, overridden_by_the_heir) == []


@pytest.mark.parametrize("given", [("--lr",), ("--lr", "--seed")])
def test_the_command_line_is_above_all(given: tuple[str, ...]) -> None:
    assert lines(BASE, {"MODEL_ARGS": {"--lr": 0.2}}, given=given) == []
