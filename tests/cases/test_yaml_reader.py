"""tasks/cases/yaml_reader.py: values that keep their kind, traps that stay text, errors with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.cases import yaml_reader
from tasks.util.exits import UsageError


def error_of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        yaml_reader.read_mapping(path)
    return str(caught.value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_the_reader(number: float) -> None:
    assert yaml_reader.scalar(repr(number)) == number


@pytest.mark.parametrize("text", ["on", "yes", "no", "1:30", "949,50,1", "2024-01-01", "0x10", "1_000"])
def test_traps_of_yaml_stay_text(text: str) -> None:
    assert yaml_reader.scalar(text) == text


@pytest.mark.parametrize("text", ["1e400", "1" + "0" * 5000, "!!int x", "!!bool x", "[" * 3000])
def test_a_setting_that_is_no_value_stays_text(text: str) -> None:
    assert yaml_reader.scalar(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "holds a list"),
        ("MODEL_ARGS: [", "line 1"),
        (
            "MODEL_ARGS:\n  --lr: 1\n  --seed: 2\n  --lr: 3\n",
            "line 4: the key --lr stands here and on line 2",
        ),
        ("1: 2\n", "the key 1 is not text"),
        ("MODEL_ARGS:\n  --lr: 1e400\n", "line 2: '1e400' is no usable float"),
        ("MODEL_ARGS:\n  --lr: !!float abc\n", "line 2: 'abc' is no usable float"),
        (f"MODEL_ARGS:\n  --seed: 1{'0' * 5000}\n", "line 2: '1000000"),
        ("MODEL_ARGS:\n  --bf16: !!bool maybe\n", "line 2: 'maybe' is no usable bool"),
        ("MODEL_ARGS:\n  --lr: !!timestamp soon\n", "line 2: tag:yaml.org,2002:timestamp: values are"),
        (f"MODEL_ARGS: {'[' * 3000}", "nested too deeply"),
    ],
)
def test_files_that_are_no_mapping_of_values(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in error_of(tmp_path / "case.yaml", text.encode())


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert "is not UTF-8" in error_of(tmp_path / "case.yaml", b"MODEL_ARGS: \xff\n")


def test_a_file_that_is_read_again_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model_config.yaml"
    path.write_text("MODEL_ARGS: {--first-of-this-test: [1, 2]}\n")
    first = yaml_reader.read_mapping(path)
    first["MODEL_ARGS"]["--first-of-this-test"].append(3)
    monkeypatch.setattr(yaml_reader.yaml, "load", lambda *_, **__: pytest.fail("parsed a second time"))
    assert yaml_reader.read_mapping(path) == {"MODEL_ARGS": {"--first-of-this-test": [1, 2]}}


def test_a_file_that_has_changed_is_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "model_config.yaml"
    for value in (1, 2):
        path.write_text(f"MODEL_ARGS: {{--changed-in-this-test: {value}}}\n")
        assert yaml_reader.read_mapping(path) == {"MODEL_ARGS": {"--changed-in-this-test": value}}
