"""The NCCL that is used, and one that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.machine import nccl
from tasks.util.exits import CannotRun


def test_a_preloaded_library_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/libother.so /somewhere/libnccl.so.2")
    monkeypatch.setattr(nccl, "newer_nccl", lambda: Path("/environment/libnccl.so.2"))
    assert nccl.library() == Path("/somewhere/libnccl.so.2")


def test_then_the_pinned_one_beside_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(nccl, "newer_nccl", lambda: Path("/environment/libnccl.so.2"))
    assert nccl.library() == Path("/environment/libnccl.so.2")


def test_no_version_of_what_is_no_nccl(tmp_path: Path) -> None:
    file = tmp_path / "libnccl.so.2"
    file.write_text("nothing")
    assert nccl.version(file) is None
    assert nccl.text(None) == "none"
    assert nccl.text((2, 31, 2)) == "2.31.2"


@pytest.mark.parametrize("found", [None, (2, 28, 9)])
def test_ranks_that_share_a_gpu_need_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, found: nccl.Version | None
) -> None:
    monkeypatch.setattr(nccl, "library", lambda: None)
    monkeypatch.setattr(nccl, "version", lambda path: found)
    with pytest.raises(CannotRun, match=r"8 ranks on a GPU need NCCL 2\.31 or later"):
        nccl.preload_library(ranks_per_gpu=8)
    nccl.preload_library(ranks_per_gpu=1)  # one rank a GPU: any NCCL will do
