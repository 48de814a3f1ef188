"""A user's own dataset, as few bytes as one may have."""

from __future__ import annotations

import struct
from pathlib import Path


def pair(
    prefix: Path, *, tokens: bytes = b"1234", head: tuple[int, ...] = (1, 8, 1, 2), tail: bytes = b""
) -> Path:
    """One document of two tokens; ``head``: version, type of a token, sequences, boundaries of documents."""
    prefix.with_name(f"{prefix.name}.bin").write_bytes(tokens)
    rest = struct.pack("<iqqq", 2, 0, 0, 1)
    index = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", *head) + rest + tail
    prefix.with_name(f"{prefix.name}.idx").write_bytes(index)
    return prefix
