"""Names and purposes of the cases."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tasks.cases import names
from tasks.cases.loader import load_case
from tasks.cases.names import case_names
from tasks.suite import listing
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY

TODAY = datetime.date(2026, 11, 24)


def case(root: Path, name: str, text: str) -> str:
    path = root / "test_cases" / name / "model_config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return name


def test_names_are_the_cases() -> None:
    assert names.case_names() == case_names(REPOSITORY)


def test_a_case_file_that_cannot_be_read_is_a_case_of_the_menu(tmp_path: Path) -> None:
    (tmp_path / "test_cases/folder/model_config.yaml").mkdir(parents=True)
    (tmp_path / "test_cases/link").mkdir()
    (tmp_path / "test_cases/link/model_config.yaml").symlink_to("nowhere")
    case(tmp_path, "latin", "")
    (tmp_path / "test_cases/latin/model_config.yaml").write_bytes(b"# \xe9\n")
    listed = names.case_names(tmp_path)
    assert listed == ["folder", "latin", "link"]
    assert len(listing.listing(listed, TODAY, as_json=False, root=tmp_path).splitlines()) == 4
    for name, why in (("folder", "Is a directory"), ("latin", "is not UTF-8"), ("link", "No such file")):
        with pytest.raises(UsageError, match=f"{name}/model_config.yaml: .*{why}"):
            load_case(name, platform_name="cpu_x86_64", root=tmp_path)


def test_the_purpose_is_how_the_first_comment_begins(tmp_path: Path) -> None:
    case(tmp_path, "a", "# Trains a\n# little. And more.\nMODEL_ARGS: {}\n")
    case(tmp_path, "b", "MODEL_ARGS: {}\n# Not this.\n")
    assert names.purpose("a", tmp_path) == "Trains a little"
    assert names.purpose("b", tmp_path) == "One case"
