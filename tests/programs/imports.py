"""Imports of what ranks share, replaced by functions that note in which process they are called."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from tasks.launch import imports
from tasks.launch.imports import ImportSettings, preload
from tasks.machine import cudnn, nccl


def _noting(inside: Callable[[], object], *, missing: bool = True, dont_write: bool = False) -> IO[str]:
    """Replace the import. ``missing``: bytecode is; ``dont_write``: Python was told to write none."""
    seen, parent = tempfile.TemporaryFile("w+"), os.getpid()  # noqa: SIM115 - read by the caller

    def import_all(wanted: ImportSettings) -> None:
        print(wanted.device, "here" if os.getpid() == parent else "elsewhere", file=seen, flush=True)
        inside()

    imports._import_all = import_all
    imports.bytecode_is_missing = lambda: missing
    imports.keep_bytecode = lambda: None
    sys.dont_write_bytecode = dont_write
    return seen


def _lines(seen: IO[str]) -> list[str]:
    seen.seek(0)
    return seen.read().splitlines()


def imported(device: str, missing: bool, dont_write: bool) -> list[str]:
    """The processes that import."""
    seen = _noting(lambda: None, missing=missing, dont_write=dont_write)
    preload(ImportSettings(device=device))
    return _lines(seen)


def import_that_fails() -> list[str]:
    """The processes that import, and the error that the caller gets."""

    def fail() -> None:
        raise ImportError("no torch")

    seen = _noting(fail)
    try:
        preload(ImportSettings(device="cpu"))
    except ImportError as error:
        print(error, file=seen, flush=True)
    return _lines(seen)


def imported_twice() -> dict[str, Any]:
    """The processes that import when it is asked for twice, and whether what they share is frozen."""
    seen = _noting(lambda: None, missing=False)
    for _ in range(2):
        preload(ImportSettings(device="cpu"))
    return {"imports": _lines(seen), "frozen": gc.get_freeze_count() > 1000}


def import_without_end() -> None:
    """Compile in a process that does not end."""
    _noting(lambda: print("ready", flush=True) or time.sleep(60))
    preload(ImportSettings(device="cpu"))


def imported_on_a_gpu(cuda_is_initialised: bool) -> list[Any]:
    """Libraries loaded on a CUDA host, in order, and the error."""
    calls: list[Any] = []
    nccl.preload_library = lambda *, ranks_per_gpu: calls.append(["nccl", ranks_per_gpu])
    cudnn.preload_library = lambda: calls.append(["cudnn"])
    cuda = SimpleNamespace(is_initialized=lambda: cuda_is_initialised)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)
    imports._SHARED_MODULES = ()
    imports._import_trainer = lambda trainer, device: calls.append([device])
    trainer = SimpleNamespace(own=False)
    try:
        imports._import_all(ImportSettings(device="cuda", ranks_per_gpu=4, trainer=trainer))
    except RuntimeError as error:
        calls.append(str(error))
    return calls


def checkout_in_front(imported: str) -> list[Any]:
    """Search path, folders of bytecode and their variable once a checkout is found first; or the error."""
    sys.modules |= {imported: SimpleNamespace()}
    try:
        imports._find_checkout_first(Path("/checkout"))
    except RuntimeError as error:
        return [str(error), "/checkout" in sys.path]
    kept = str(imports.BYTECODE)
    return [
        sys.path.index("/checkout"),
        sys.pycache_prefix == kept,
        os.environ["PYTHONPYCACHEPREFIX"] == kept,
    ]


def import_torch_from(folder: str) -> None:
    """Import a torch that stands in ``folder``, for a second at most."""
    sys.path.insert(0, folder)
    imports.IMPORT_TIMEOUT_S = 1.0
    preload(ImportSettings(device="cpu"))


def keep_bytecode(folder: str) -> dict[str, bool]:
    """Import a package: whether bytecode is kept in ``folder``, whether it is missing before and after."""
    kept = imports.keep_bytecode("some_package", Path(folder))
    before = imports.bytecode_is_missing("some_package")
    __import__("some_package")
    return {
        "kept": kept,
        "missing before": before,
        "missing after": imports.bytecode_is_missing("some_package"),
        "no package's is missing": imports.bytecode_is_missing("no_such_package"),
    }
