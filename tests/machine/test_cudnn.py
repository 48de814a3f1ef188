"""The cuDNN that is preloaded, seen with libraries made here."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import subprocess
import types
from pathlib import Path

import pytest

from tasks.machine import cudnn
from tasks.util.exits import CannotRun


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose torch brings a cuDNN in three files, of which only the names count."""
    folder = tmp_path / "site-packages"
    (folder / "nvidia/cudnn/lib").mkdir(parents=True)
    for name in ("libcudnn_ops.so.9", "libcudnn.so.9", "libcudnn_graph.so.9", "notes.txt"):
        (folder / "nvidia/cudnn/lib" / name).touch()
    for name in cudnn.HOME_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    package = types.SimpleNamespace(locate_file=folder.joinpath)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)
    return folder / "nvidia/cudnn"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Names and modes of loaded libraries, which are not really loaded."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode=0: calls.append((Path(path).name, mode)))
    return calls


def test_every_library_of_torchs_own_is_loaded_for_all_to_see(
    environment: Path, loaded: list[tuple[str, int]]
) -> None:
    cudnn.preload_library()
    names = ("libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn_ops.so.9")
    assert loaded == [(name, ctypes.RTLD_GLOBAL) for name in names]
    assert os.environ["CUDNN_HOME"] == str(environment)  # where Transformer Engine looks first


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("variable", cudnn.HOME_VARIABLES)
@pytest.mark.parametrize("place", ["lib64", "lib/x86_64-linux-gnu"])
def test_the_one_that_the_user_names_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[tuple[str, int]], variable: str, place: str
) -> None:
    (tmp_path / "theirs" / place).mkdir(parents=True)
    (tmp_path / "theirs" / place / "libcudnn.so.9.30.0").touch()
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    cudnn.preload_library()
    assert [name for name, _ in loaded] == ["libcudnn.so.9.30.0"]


def test_a_folder_without_one_is_refused_and_has_no_version(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDNN_HOME", "/nowhere")
    with pytest.raises(CannotRun, match=r"/nowhere holds no lib.*correct CUDNN_HOME or CUDNN_PATH"):
        cudnn.preload_library()
    assert os.environ["CUDNN_HOME"] == "/nowhere"
    monkeypatch.setattr(
        ctypes, "CDLL", lambda path: pytest.fail(f"the system's is none of the ranks': {path}")
    )
    assert cudnn.version() is None


def test_where_torch_brings_none_the_systems_is_left_to_be_found(
    environment: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", importlib.metadata.Distribution.from_name)
    monkeypatch.setattr(importlib.metadata.Distribution, "discover", lambda **_: iter(()))
    cudnn.preload_library()
    assert loaded == []
    assert "CUDNN_HOME" not in os.environ


def test_the_version_comes_from_the_library(environment: Path, tmp_path: Path) -> None:
    assert cudnn.version() is None  # an empty file is no library
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    source = tmp_path / "cudnn.c"
    source.write_text("unsigned long cudnnGetVersion(void) { return 91900; }\n")
    library = environment / "lib/libcudnn.so.9"
    library.unlink()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    assert cudnn.version() == "9.19.0"
