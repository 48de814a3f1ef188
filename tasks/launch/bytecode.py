"""Compiled Python of the packages, where nothing else keeps it.

A container's image often says ``PYTHONDONTWRITEBYTECODE=1`` and was installed without bytecode: every process
that starts then compiles torch and megatron anew, 10 s of the 18 s of imports on an H100's host.

Only the standard library is imported: the noxfile reads ``subject``, which keeps a checkout's here, too.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "data" / "bytecode"


def keep(package: str = "torch", folder: Path = FOLDER) -> bool:
    """Have this process keep bytecode in ``folder`` when ``package`` has none and may get none beside it.

    Nothing is written where the packages lie, which is what was asked for. Returns whether it is done.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix or not is_missing(package):
        return False
    sys.pycache_prefix = str(folder)
    sys.dont_write_bytecode = False
    return True


def is_missing(package: str = "torch") -> bool:
    """Whether ``package`` is there and not compiled."""
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.origin) and not Path(importlib.util.cache_from_source(spec.origin)).is_file()
