"""Which cuDNN the ranks use, found and put in front of the system's without importing torch."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from pathlib import Path

from tasks.exits import CannotRun

HOME_VARIABLE = "CUDNN_HOME"


def home() -> Path | None:
    """The folder of the cuDNN that ranks use: what ``CUDNN_HOME`` says, else ``torchs_own``, else None: the
    one that the system's loader finds.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else torchs_own()


def torchs_own() -> Path | None:
    """The folder of the one that torch brings along; None where it was built with the system's, as in a
    container.
    """
    try:
        package = importlib.metadata.distribution("nvidia-cudnn-cu13")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = Path(str(package.locate_file("nvidia/cudnn")))
    return found if libraries(found) else None


def libraries(folder: Path) -> list[Path]:
    """All of its libraries, the one that loads the others when they are needed first."""
    return sorted(folder.glob("lib*/libcudnn*.so.[0-9]*"))


def version() -> str | None:
    """``9.19.0``, as cuDNN itself says; None where there is none. Loads it."""
    folder = home()
    found = libraries(folder) if folder else []
    try:
        loaded = ctypes.CDLL(str(found[0]) if found else "libcudnn.so.9")
        loaded.cudnnGetVersion.restype = ctypes.c_size_t
        number = loaded.cudnnGetVersion()
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def put_in_front() -> None:
    """Load every library of the cuDNN in ``home``, before torch and Transformer Engine are imported.

    Transformer Engine needs each of them by its name alone, and looks for the system's cuDNN first
    (``_load_cuda_library`` of its ``common/__init__.py``). Beside torch's own, a process then had parts of
    two; torch refuses that at its first convolution, and attention is computed by another version than the
    pinned one. What is loaded already is not looked for.

    Errors: ``CannotRun`` when ``CUDNN_HOME`` holds no cuDNN.
    """
    folder = home()
    if folder is None:
        return
    found = libraries(folder)
    if not found:
        raise CannotRun(f"{HOME_VARIABLE}={folder} holds no lib*/libcudnn*.so: correct it, or unset it")
    for library in found:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ[HOME_VARIABLE] = str(folder)
