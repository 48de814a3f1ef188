"""Code that comes with a checkpoint."""

from __future__ import annotations

from pathlib import Path


class Touch:
    """Unpickled, it makes a file: code that comes with a checkpoint, executed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)
