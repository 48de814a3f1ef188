"""tasks.check: cases on all their platforms, and their golden cards; nothing runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cases.names import case_names
from tasks.check import main, platform_names
from tasks.machine.platforms import environment
from tasks.records.card_store import write_provenance
from tasks.util.files import REPOSITORY
from tests.stub_checkout import SOUND_CASE, add_case, add_sound_case

PROVENANCE = {"case": "a_case", "reason": "test", "recorded": "today", "platform": "cpu_x86_64"}
PROVENANCE |= {"environment": environment(), "fingerprint": {"torch": "2"}}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_provenance(add_sound_case(tmp_path, "a_case"), PROVENANCE)
    return tmp_path


def check(root: Path, *cases: str) -> int:
    return main([*cases, "--root", str(root)])


def test_a_sound_case_and_its_card(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root) == check(root, "a_case") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a_case", "cpu_x86_64", "8", environment()]
    assert lines[2] == "cases and golden cards: no error"


def test_the_cases_of_this_repository_are_sound_on_all_platforms(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(REPOSITORY) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert {row[0] for row in rows} == set(case_names())
    assert {"cpu_x86_64", "cpu_aarch64", "gpu1_h100", "dgx_any_x2"} <= {row[1] for row in rows}


def test_a_case_without_a_card_is_no_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new case is checked before its first card is recorded."""
    add_sound_case(root, "new", card=False)
    assert check(root, "new") == 0
    assert "none yet" in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["cpu_aarch64", "cpu_*", "gpu1_*", "dgx_*_x2", "gpu4_h100"])
def test_each_entry_of_platforms_is_read(root: Path, entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Values that are each in their range, and do not fit together on that platform alone."""
    broken = f"PLATFORMS: {{{entry}: {{MODEL_ARGS: {{--num-layers: 10}}}}}}\n"
    add_case(root, "broken", SOUND_CASE + broken)
    assert check(root) == 2
    (error, *others) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert "--num-layers" in error
    assert all("--num-layers" in line for line in others)


def test_every_broken_case_is_told_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_case(root, "empty", "")
    add_case(root, "heir", "INHERIT: misspelt\n")
    add_case(root, "misspelt", SOUND_CASE.replace("lm loss", "lm los") + "PLATFORMS: {dgx_a100: {}}\n")
    (root / "goldens/of_nothing").mkdir()
    assert check(root) == 2
    lines = capsys.readouterr().out.splitlines()
    for part in (
        "empty/model_config.yaml: holds nothing",
        "'lm los' is unknown",
        "there is no case of_nothing",
    ):
        assert len([line for line in lines if part in line]) == (2 if "lm los" in part else 1), part


def test_a_broken_card_is_told_with_each_case_that_it_is_of(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_case(root, "heir", "INHERIT: a_case\nGOLDEN_CARD: a_case\n")
    add_sound_case(root, "apart", card=False)
    card = next((root / "goldens/a_case").glob("golden_values_*_x86_64.json"))
    card.write_text(card.read_text() + "\n")
    assert (check(root, "heir"), check(root, "a_case"), check(root), check(root, "apart")) == (2, 2, 2, 0)
    assert capsys.readouterr().out.count("was the card edited by hand?") == 3


def test_a_card_that_is_left_over_from_a_platform_is_of_one(root: Path) -> None:
    card = next((root / "goldens/a_case").glob("golden_values_*_x86_64.json"))
    card.rename(card.with_name("golden_values_dev_gpu1_h100.json"))
    assert platform_names("a_case", root) == ["gpu1_h100", "cpu_x86_64"]


def test_an_unknown_case_is_bad_usage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root, "a_cas") == 2
    assert capsys.readouterr().out.startswith("error: there is no case 'a_cas'. Did you mean a_case?")


def test_torch_is_not_imported() -> None:
    """A case is checked in a second."""
    program = "import sys, tasks.check; tasks.check.main(['gpt3_pp4']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
