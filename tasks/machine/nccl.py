"""Find the NCCL that ranks use, and load it before torch loads its own. Torch is not imported."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tasks.machine.packages import BESIDE_TORCH, installed_file, newer_nccl
from tasks.util.exits import CannotRun

OLDEST_SHARING = (2, 31)  # the first that puts several ranks on one GPU

Version = tuple[int, int, int]


def library() -> Path | None:
    """The NCCL that ranks started by this process use; None: the one that the system's loader finds."""
    for entry in os.environ.get("LD_PRELOAD", "").replace(":", " ").split():
        if Path(entry).name.startswith("libnccl.so"):
            return Path(entry)
    torchs_own = installed_file(BESIDE_TORCH, "nvidia/nccl/lib/libnccl.so.2")
    return newer_nccl() or (torchs_own if torchs_own and torchs_own.is_file() else None)


def version(path: Path | None) -> Version | None:
    """NCCL's own number, 23102 for 2.31.2, as (2, 31, 2); None where there is no NCCL. Loads the library."""
    try:
        loaded = ctypes.CDLL(str(path or "libnccl.so.2"))
        number = ctypes.c_int()
        loaded.ncclGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return number.value // 10000, number.value // 100 % 100, number.value % 100


def text(found: Version | None) -> str:
    """``2.31.2``, or ``none``."""
    return ".".join(map(str, found)) if found else "none"


def can_share(found: Version | None) -> bool:
    """True when this NCCL lets several ranks share one GPU."""
    return found is not None and found[:2] >= OLDEST_SHARING


def preload_library(*, ranks_per_gpu: int) -> None:
    """Load the NCCL of ``library``, so that torch, imported later, calls it instead of its own older one.

    Symbols of a library loaded with RTLD_GLOBAL take precedence over those that torch brings, as with
    ``LD_PRELOAD``, but without starting the process again.

    Raises:
        CannotRun: several ranks are to share a GPU and this NCCL cannot do that.
    """
    path = library()
    found = version(path)
    if ranks_per_gpu > 1 and not can_share(found):
        raise CannotRun(
            f"{ranks_per_gpu} ranks on a GPU need NCCL 2.31 or later, this is {text(found)} ({path}): install"
            " the pinned one beside torch's own (nox does), or put one in front with LD_PRELOAD"
        )
    if path is not None:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
