"""The dry run of a case: its platform, its golden card, its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.machine.platforms import environment
from tasks.records import card_store
from tasks.suite import dry_run
from tasks.suite.options import read_case_options
from tests.stub_checkout import add_case

ENVIRONMENT = environment()
OWN, GENERIC = f"golden_values_{ENVIRONMENT}_cpu_x86_64.json", f"golden_values_{ENVIRONMENT}.json"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def with_cards(root: Path, *names: str) -> Path:
    add_case(root, "a_case")
    folder = root / "goldens" / "a_case"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return root


def described(root: Path, *argv: str, case: str = "a_case") -> list[str]:
    return dry_run.describe(case, read_case_options([case, *argv]), root=root)


@pytest.mark.parametrize("cards", [(OWN,), (GENERIC,), (OWN, GENERIC)])
def test_the_card_named_is_the_one_that_judging_would_take(tmp_path: Path, cards: tuple[str, ...]) -> None:
    root = with_cards(tmp_path, *cards)
    found = card_store.find_card(root, "a_case", ENVIRONMENT, "cpu_x86_64").path.relative_to(root)
    card = described(root)[-1].removeprefix("golden card: ")
    assert card.split(" (")[0] == str(found)
    assert ("approximate" in card) == (OWN not in cards)


def test_without_a_card_it_says_the_exit_code_and_the_cure(tmp_path: Path) -> None:
    card = described(with_cards(tmp_path))[-1]
    assert card.startswith("golden card: none, the run would exit 2: no golden card of a_case for")
    assert card.endswith('; record one: nox -s record -- a_case --reason "..."')


def test_a_case_compared_with_anothers_card_names_that_one(tmp_path: Path) -> None:
    root = with_cards(tmp_path, OWN)
    add_case(root, "crash", "INHERIT: heir\n")
    add_case(root, "heir", "INHERIT: a_case\nGOLDEN_CARD: a_case  # the same flags\n")
    assert described(root, case="crash")[-1] == f"golden card: goldens/a_case/{OWN}"


def test_a_case_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    add_case(tmp_path, "a_case", "MODEL_ARGS: [")
    assert "golden card: none, the run would exit 2: " in described(tmp_path)[-1]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--megatron-lm", "x", "--baseline", "y"], "none, every step is compared with y"),
        (["--megatron-lm", "x"], "from goldens/a_case@<its commit>/; where there is none, the restart alone"),
        (["--trainer", "megatron", "--subject", "mine"], "from goldens/a_case@mine/; where there is none"),
    ],
)
def test_options_that_have_it_compared_with_something_else(
    tmp_path: Path, argv: list[str], expected: str
) -> None:
    assert expected in described(with_cards(tmp_path, OWN), *argv)[-1]


def test_the_card_of_a_case_file_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "goldens/a_case/model_config.yaml"
    options = read_case_options(["--case-file", str(file)])
    assert f"put {OWN} beside the case file" in dry_run.describe("other", options, root=tmp_path)[-1]
    with_cards(tmp_path, OWN)
    for given in (file, file.parent):
        options = read_case_options(["--case-file", str(given)])
        assert dry_run.describe("other", options)[-1] == f"golden card: {file.parent / OWN}"


def test_the_platform_is_resolved(tmp_path: Path) -> None:
    lines = described(with_cards(tmp_path, OWN))
    assert lines[0] == f"platform: cpu_x86_64, 8 ranks; environment {ENVIRONMENT}"
    assert lines[-1] == f"golden card: goldens/a_case/{OWN}"


def test_several_nodes_are_named(tmp_path: Path) -> None:
    several = ["--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "a:1", "--run-dir", "shared"]
    assert described(with_cards(tmp_path), *several)[0].endswith("this is node 1 of 2")


def test_a_machine_that_cannot_run_it_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "quantum")
    assert described(tmp_path) == ["platform: none: CRASH_TEST_DEVICE=quantum: must be cpu, cuda or not set"]


def test_the_plan_names_every_step(tmp_path: Path) -> None:
    plan = dry_run.plan("gpt3_pp4", read_case_options(["gpt3_pp4", "--set", "lr=1 2"]), tmp_path)
    commands = [line for line in plan.splitlines() if line.startswith("would run: python -m tasks.")]
    called = [line.split()[4].removeprefix("tasks.") for line in commands]
    assert called == ["train", "resume", "diff", "report"]
    assert commands[0].endswith("--set 'lr=1 2'")
