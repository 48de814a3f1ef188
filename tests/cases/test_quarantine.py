"""Quarantine: read strictly from a case's file."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tasks.cases import quarantine, yaml_reader
from tasks.cases.loader import load_case
from tasks.cases.names import file_of
from tasks.cases.quarantine import Quarantine, faults, read
from tasks.util.exits import UsageError
from tests.cases.small_case import write_case

TODAY = datetime.date(2026, 11, 24)
GOOD = {"OWNER": "somebody", "REASON": "flaky sums", "UNTIL": "2026-12-31"}
TEXT = "MODEL_ARGS: {}\nQUARANTINE:\n  OWNER: somebody\n  REASON: flaky sums\n  UNTIL: 2026-12-31\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model_config.yaml"


def test_it_holds_to_the_end_of_its_day() -> None:
    held = Quarantine(owner="a", reason="b", until=TODAY)
    assert held.holds(TODAY)
    assert not held.holds(TODAY + datetime.timedelta(days=1))
    assert held.as_json(TODAY) == {"owner": "a", "reason": "b", "until": "2026-11-24", "ended": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OWNER": None}, "QUARANTINE.OWNER: None must be text"),
        ({"REASON": " "}, "QUARANTINE.REASON: ' ' must be text"),
        ({"OWNER": 7}, "QUARANTINE.OWNER: 7 must be text"),
        ({"SINCE": "2026-11-01"}, "QUARANTINE.SINCE: unknown key"),
        ({"UNTIL": "31.12.2026"}, "'31.12.2026' is no day; write for example 2026-11-24"),
        ({"UNTIL": "2026-02-30"}, "'2026-02-30' is no day"),
        ({"UNTIL": "2027-02-23"}, "more than 90 days ahead; at most 2027-02-22"),
    ],
)
def test_errors_are_reported(changes: dict, message: str) -> None:
    (found,) = faults({**GOOD, **changes}, TODAY)
    assert message in found


@pytest.mark.parametrize("key", quarantine.KEYS)
def test_all_three_are_needed(key: str) -> None:
    entry = {name: GOOD[name] for name in GOOD if name != key}
    assert faults(entry, TODAY) == [f"QUARANTINE.{key}: is missing"]


@pytest.mark.parametrize("entry", [None, "until tomorrow", [], True])
def test_it_is_a_mapping(entry: object) -> None:
    assert faults(entry, TODAY) == ["QUARANTINE: must be a mapping of OWNER, REASON, UNTIL"]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "# QUARANTINE: none\n" + TEXT,
        TEXT.replace("QUARANTINE:", '"QUARANTINE":  # see issue 7') + "METRICS:\n  - lm loss\n",
        TEXT.replace("  OWNER", "\n  # who\n  OWNER").replace("flaky sums", "'flaky sums'  # sums"),
        TEXT.replace("flaky sums", ">-\n    flaky\n    sums"),
        "QUARANTINE: {OWNER: somebody, REASON: flaky sums, UNTIL: 2026-12-31}\n",
    ],
)
def test_it_is_read_as_yaml(file: Path, text: str) -> None:
    file.write_text(text)
    held = Quarantine(owner="somebody", reason="flaky sums", until=datetime.date(2026, 12, 31))
    assert read(file, TODAY) == held


@pytest.mark.parametrize(
    "text",
    [
        TEXT + TEXT,
        TEXT.replace("flaky sums", "flaky: sums"),
        TEXT.replace("  REASON", "  OWNER: another\n  REASON"),
        TEXT.replace("  REASON", "  - REASON"),
    ],
)
def test_a_file_that_cannot_be_read_has_none_and_its_case_fails(file: Path, text: str) -> None:
    file.write_text(text)
    assert read(file, TODAY) is None
    with pytest.raises(UsageError):
        yaml_reader.read_mapping(file)


def test_an_error_is_one_line_that_names_the_file(file: Path) -> None:
    file.write_text("QUARANTINE: {}\nMODEL_ARGS: {}\n")
    with pytest.raises(UsageError) as error:
        read(file, TODAY)
    assert str(error.value).startswith(f"{file}: QUARANTINE.OWNER: is missing; ")
    assert "\n" not in str(error.value)


def test_a_file_without_one_has_none(file: Path) -> None:
    file.write_text("MODEL_ARGS: {}\nMETRICS: []  # no QUARANTINE: here\n")
    assert read(file, TODAY) is None


def test_a_case_that_inherits_is_not_in_quarantine(tmp_path: Path) -> None:
    """An invalid entry in the base is an error of the base only."""
    base = file_of("gpt3_pp4_resume").read_text()
    write_case(tmp_path, base + "QUARANTINE:\n  OWNER: somebody\n", "base")
    write_case(tmp_path, "INHERIT: base\n", "child")
    with pytest.raises(UsageError, match=r"2 errors:\n.*QUARANTINE.REASON: is missing"):
        load_case("base", platform_name="cpu_x86_64", root=tmp_path)
    assert load_case("child", platform_name="cpu_x86_64", root=tmp_path).name == "child"
    assert read(file_of("child", tmp_path), TODAY) is None
