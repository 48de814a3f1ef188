"""A dry run names the platform a case would run on and the card it would be compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.machine.nodes import Nodes
from tasks.machine.platforms import environment
from tasks.records import card_store
from tasks.suite import dry_run
from tasks.suite.options import read_session_options
from tasks.util.exits import UsageError
from tests.stub_checkout import add_case

ENVIRONMENT = environment()
OWN, GENERIC = f"golden_values_{ENVIRONMENT}_cpu_x86_64.json", f"golden_values_{ENVIRONMENT}.json"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def with_cards(root: Path, *names: str) -> Path:
    folder = root / "goldens" / "a_case"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return root


@pytest.mark.parametrize("cards", [(OWN,), (GENERIC,), (OWN, GENERIC)])
def test_the_card_named_is_the_one_that_judging_would_take(tmp_path: Path, cards: tuple[str, ...]) -> None:
    root = with_cards(tmp_path, *cards)
    found = card_store.find_card(root, "a_case", ENVIRONMENT, "cpu_x86_64").path.relative_to(root)
    card = dry_run.golden_card("a_case", ENVIRONMENT, "cpu_x86_64", root)
    assert card.split(" (")[0] == str(found)
    assert ("approximate" in card) == (OWN not in cards)


def test_no_card_is_told_with_the_exit_code_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        card_store.find_card(tmp_path, "a_case", ENVIRONMENT, "cpu_x86_64")
    card = dry_run.golden_card("a_case", ENVIRONMENT, "cpu_x86_64", tmp_path)
    assert "would exit 2" in card
    assert "nox -s record -- a_case --reason" in card


def test_a_case_held_to_anothers_card_names_that_one(tmp_path: Path) -> None:
    """It has none of its own, and none can be recorded for it."""
    add_case(tmp_path, "crash", "INHERIT: heir\n")
    add_case(tmp_path, "heir", "INHERIT: a_case\nGOLDEN_CARD: a_case  # the same flags\n")
    add_case(tmp_path, "a_case")
    root = with_cards(tmp_path, OWN)
    assert dry_run.describe("crash", root=root)[-1] == f"golden card: goldens/a_case/{OWN}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--megatron-lm", "x", "--baseline", "y"], "none, every step is compared with y"),
        (["--megatron-lm", "x"], "from goldens/a_case@<its commit>/; where there is none, the restart alone"),
        (["--trainer", "megatron", "--subject", "mine"], "from goldens/a_case@mine/; where there is none"),
    ],
)
def test_options_that_have_it_compared_with_something_else(
    tmp_path: Path, words: list[str], told: str
) -> None:
    options = read_session_options("a_case", words)
    assert told in dry_run.describe("a_case", options=options, root=with_cards(tmp_path, OWN))[-1]


def test_the_card_of_a_case_file_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "goldens/a_case/model_config.yaml"
    options = read_session_options("case", ["--case-file", str(file)])
    assert f"put {OWN} beside the file" in dry_run.describe("other", options=options, root=tmp_path)[-1]
    with_cards(tmp_path, OWN)
    for given in (file, file.parent):
        options = read_session_options("case", ["--case-file", str(given)])
        assert dry_run.describe("other", options=options)[-1] == f"golden card: {file.parent / OWN}"


def test_the_platform_is_resolved(tmp_path: Path) -> None:
    lines = dry_run.describe("a_case", root=with_cards(tmp_path, OWN))
    assert lines[0] == f"platform: cpu_x86_64, 8 ranks; environment {ENVIRONMENT}"
    assert lines[-1] == f"golden card: goldens/a_case/{OWN}"


def test_several_nodes_are_told(tmp_path: Path) -> None:
    lines = dry_run.describe("a_case", Nodes(count=2, rank=1, endpoint="a:1"), root=tmp_path)
    assert lines[0].endswith("this is node 1 of 2")


def test_a_machine_that_cannot_run_it_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "quantum")
    assert dry_run.describe("a_case", root=tmp_path) == [
        "platform: none: CRASH_TEST_DEVICE=quantum: must be cpu, cuda or not set"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-s first second", None),
        ("-l", None),
        ("--no-venv -s first -- --set x=1 nothing", None),
        ("-s frist", "no session 'frist'. Did you mean first? Sessions: first, second"),
        ("--session second --session firs --", "no session 'firs'. Did you mean first?"),
        ("-s zzz", "no session 'zzz'. Sessions: first, second"),
    ],
)
def test_an_unknown_session_is_told_with_the_known_ones(line: str, said: str | None) -> None:
    problem = dry_run.unknown_session(line.split(), ["first", "second"])
    assert (problem is None) if said is None else (said in problem)
