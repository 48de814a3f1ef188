"""Find the cuDNN that ranks use, and load it before the system's is looked for. Torch is not imported."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tasks.machine.packages import installed_file
from tasks.util.exits import CannotRun

HOME_VARIABLES = ("CUDNN_HOME", "CUDNN_PATH")  # as Transformer Engine reads them, the first that is set


def home() -> Path | None:
    """The cuDNN folder of ranks: ``CUDNN_HOME``, ``CUDNN_PATH`` or ``torchs_own``, else None."""
    chosen = next(filter(None, map(os.environ.get, HOME_VARIABLES)), None)
    return Path(chosen) if chosen else torchs_own()


def torchs_own() -> Path | None:
    """The folder of the cuDNN installed with torch; None when torch uses the system's, as in a container."""
    found = installed_file("nvidia-cudnn-cu13", "nvidia/cudnn")
    return found if found and libraries(found) else None


def libraries(folder: Path) -> list[Path]:
    """All libraries of a cuDNN, first the one that loads the others on demand."""
    places = ("lib*", "lib*/*")  # Debian keeps them one folder deeper
    found = [path for place in places for path in folder.glob(f"{place}/libcudnn*.so.[0-9]*")]
    return sorted(found, key=lambda path: path.name)


def version() -> str | None:
    """The version that cuDNN itself reports, ``9.19.0``; None without cuDNN. Loads the library."""
    folder = home()
    found = libraries(folder) if folder else [Path("libcudnn.so.9")]
    try:
        loaded = ctypes.CDLL(str(found[0]))
        loaded.cudnnGetVersion.restype = ctypes.c_size_t
        number = loaded.cudnnGetVersion()
    except (IndexError, OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def preload_library() -> None:
    """Load every library of the cuDNN in ``home``, before torch and Transformer Engine are imported.

    Transformer Engine loads each library by its bare name and looks for the system's cuDNN first
    (``_load_cuda_library`` of its ``common/__init__.py``). Together with torch's own, a process would then
    hold parts of two versions: torch refuses that at its first convolution, and attention runs on another
    version than the pinned one. A library that is loaded already is not looked for.

    Raises:
        CannotRun: the folder that the environment variable names holds no cuDNN.
    """
    folder = home()
    if folder is None:
        return
    found = libraries(folder)
    if not found:
        raise CannotRun(
            f"{folder} holds no lib*/libcudnn*.so.*: correct {' or '.join(HOME_VARIABLES)}, or unset it"
        )
    for library in found:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ[HOME_VARIABLES[0]] = str(folder)
