"""Files written whole or not at all, JSON read with errors that name the file."""

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


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write beside the target and rename over it. Makes the folder when there is none.

    Raises:
        UsageError: the file cannot be written here.
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
    """A small JSON file of ours (provenance, phase record, case record).

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
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def whole(value: object) -> int | None:
    """The value if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_FULL_BYTES = 2**20  # of a disk; less is as good as nothing


def disk_is_full(path: str | Path) -> bool:
    """Whether nothing can be written beside ``path``, which is there."""
    return shutil.disk_usage(path).free < _FULL_BYTES
