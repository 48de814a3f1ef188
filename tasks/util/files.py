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
PINS = REPOSITORY / "requirements.txt"
CUDA_PINS, GPU_PINS = REPOSITORY / "requirements-cuda.txt", REPOSITORY / "requirements-gpu.txt"
_FULL_DISK_BYTES = 2**20  # a disk with less free space counts as full


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a temporary file beside ``path`` and rename it. Creates the folder.

    Raises:
        UsageError: the file cannot be written.
        CannotRun: the disk is full, or read-only.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text, durable=True)
    except OSError as error:
        kind = CannotRun if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else UsageError
        raise kind(f"{path}: cannot be written ({error.strerror})") from error


def replace_file(path: Path, text: str | bytes, *, durable: bool = False) -> None:
    """Write a file so that it is never seen half-written. ``durable``: also after a crash of the machine.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


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
