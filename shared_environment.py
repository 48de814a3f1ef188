"""The one environment of all sessions, made anew by nox when the pins are not those it was made with."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import sys
from pathlib import Path

import nox.virtualenv

from tasks.machine import platforms

REPOSITORY = Path(__file__).resolve().parent
ENVIRONMENT = platforms.environment()
DRY_RUN = "--dry-run" in sys.argv
ONLY_LISTED = "--list" in sys.argv[sys.argv.index("--") :] if "--" in sys.argv else False
PINS = REPOSITORY / "requirements.txt"
GPU_PINS = REPOSITORY / "requirements-gpu.txt"
STAMP = "pins.sha256"


class SharedEnvironment(nox.virtualenv.VirtualEnv):
    """One environment for all sessions. It is made anew when the pins differ from those it was made with."""

    def __init__(self, location: str, **options: object) -> None:
        super().__init__(str(Path(location).with_name(ENVIRONMENT)), venv_backend="virtualenv", **options)
        self.stamp = Path(self.location, STAMP)
        self.lock = None

    def create(self) -> bool:
        """Make it, or reuse it. Until ``prepare`` has filled it, other sessions wait."""
        if DRY_RUN or ONLY_LISTED:
            return False
        path = Path(self.location).with_name(f".{ENVIRONMENT}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = path.open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.reuse_existing = self.is_filled()
        return super().create()

    def is_filled(self) -> bool:
        """Whether exactly the pins are in it, as far as the stamp tells."""
        return self.stamp.is_file() and self.stamp.read_text() == pins_digest()


nox.virtualenv.ALL_VENVS["shared"] = SharedEnvironment


@functools.cache
def pins_digest() -> str:
    """Of all that decides what is installed."""
    files = [PINS, GPU_PINS] if platforms.on_gpus() else [PINS]
    content = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(sys.version.encode() + content).hexdigest()
