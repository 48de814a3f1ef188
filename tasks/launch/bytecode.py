"""Keep compiled Python of the packages where nothing else does.

Container images often set ``PYTHONDONTWRITEBYTECODE=1`` and are installed without bytecode: every process
then compiles torch and megatron again, 10 s of the 18 s of imports on a host with an H100.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from tasks.util.files import REPOSITORY

FOLDER = REPOSITORY / "data" / "bytecode"


def keep(package: str = "torch", folder: Path = FOLDER) -> bool:
    """Make this process keep bytecode in ``folder`` when ``package`` has none and may get none beside it.

    Nothing is written beside the packages, as the environment variable demands. Returns True when it is done.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix or not is_missing(package):
        return False
    sys.pycache_prefix = str(folder)
    sys.dont_write_bytecode = False
    return True


def is_missing(package: str = "torch") -> bool:
    """True when ``package`` is installed and not compiled."""
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.origin) and not Path(importlib.util.cache_from_source(spec.origin)).is_file()
