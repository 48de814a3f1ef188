"""Atomic writes, and JSON errors that name the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.util.exits import CannotRun, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
_FULL_DISK_BYTES = 2**20  # a disk with less free space counts as full


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a temporary file beside ``path`` and rename it. Creates the folder.

    Raises:
        UsageError: the file cannot be written.
        CannotRun: the disk is full.
    """
    content = text.encode() if isinstance(text, str) else text
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        kind = CannotRun if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(f"{path}: cannot be written ({error.strerror})") from error


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json_object(path: Path) -> dict[str, object]:
    """Read a small JSON file (provenance, phase record, case record).

    Raises:
        UsageError: unreadable, not UTF-8, not JSON, not an object.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a JSON object, is {type(content).__name__}")
    return content


def mapping(value: object) -> Mapping[str, object]:
    """The value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}


def whole(value: object) -> int | None:
    """The value if it is an integer and no bool, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def disk_is_full(path: str | Path) -> bool:
    """True when the disk of the existing ``path`` is full."""
    return shutil.disk_usage(path).free < _FULL_DISK_BYTES
