"""Names and purposes of the cases."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tasks.cases import names
from tasks.cases.loader import load_case
from tasks.suite import listing
from tasks.util.exits import UsageError
from tests.cases.small_case import write_case

TODAY = datetime.date(2026, 11, 24)


def test_a_case_file_that_cannot_be_read_is_a_case_of_the_menu(tmp_path: Path) -> None:
    (tmp_path / "test_cases/folder/model_config.yaml").mkdir(parents=True)
    (tmp_path / "test_cases/link").mkdir()
    (tmp_path / "test_cases/link/model_config.yaml").symlink_to("nowhere")
    (tmp_path / "test_cases/latin").mkdir()
    (tmp_path / "test_cases/latin/model_config.yaml").write_bytes(b"# \xe9\n")
    listed = names.case_names(tmp_path)
    assert listed == ["folder", "latin", "link"]
    assert len(listing.listing(listed, TODAY, as_json=False, root=tmp_path).splitlines()) == 4
    for name, why in (("folder", "Is a directory"), ("latin", "is not UTF-8"), ("link", "No such file")):
        with pytest.raises(UsageError, match=f"{name}/model_config.yaml: .*{why}"):
            load_case(name, platform_name="cpu_x86_64", root=tmp_path)


def test_the_purpose_is_how_the_first_comment_begins(tmp_path: Path) -> None:
    write_case(tmp_path, "# Trains a\n# little. And more.\nMODEL_ARGS: {}\n", "a")
    write_case(tmp_path, "MODEL_ARGS: {}\n# Not this.\n", "b")
    assert names.purpose("a", tmp_path) == "Trains a little"
    assert names.purpose("b", tmp_path) == "One case"
