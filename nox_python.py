"""Find a Python that the pins support. ``python3 nox_python.py`` prints its path.

The Python that runs this decides, unless it is too new or too old; a CUDA host needs Python 3.12 or later.
Runs with Python 3.6 and later, with the standard library alone.
"""

import glob
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST, OLDEST_WITH_CUDA = (3, 10), (3, 13), (3, 12)
OWN = sys.version_info[:2]
CANNOT_RUN = 5  # of tasks.util.exits, which this Python may be too old to read


def supported(version, oldest=OLDEST):
    """True for a version (major, minor) that the pins support."""
    return oldest <= version <= NEWEST


def find(oldest=OLDEST):
    """Path and version (major, minor) of a supported Python, or None."""
    if supported(OWN, oldest):
        return sys.executable, OWN
    for minor in range(NEWEST[1], oldest[1] - 1, -1):
        for path in _places(f"3.{minor}"):
            if _version(path) == (3, minor):
                return path, (3, minor)
    return None


def missing(oldest=OLDEST):
    """The error where ``find`` finds none."""
    text = "Python {}.{} to {}.{} is needed, python3 is {}.{}: install one of them (apt install python3.13,"
    text += " pyenv install 3.13 or uv python install 3.13), or name it: make PYTHON=/path/to/python3.13"
    return text.format(*oldest, *NEWEST, *OWN)


def _places(version):
    """Paths at which a Python of this version may lie: on PATH, of uv, of pyenv."""
    yield shutil.which("python" + version)
    uv = shutil.which("uv")
    if uv:
        yield _output([uv, "python", "find", "--no-python-downloads", version])
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    yield from sorted(glob.glob(os.path.join(root, "versions", version + "*", "bin", "python")))


def _version(path):
    """(major, minor) of an interpreter; None if it does not run."""
    text = _output([path, "-c", "import sys; print(*sys.version_info[:2])"]) if path else None
    return tuple(map(int, text.split())) if text else None


def _output(command):
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    """``--own``: only check the Python that runs this."""
    own = sys.argv[1:] == ["--own"]
    if own:
        found = (sys.executable, None) if supported(OWN) else None
    else:
        found = find(OLDEST_WITH_CUDA if shutil.which("nvidia-smi") else OLDEST) or find()
    if found is None:
        print("error: " + missing(), file=sys.stderr)
        return CANNOT_RUN
    if not own:
        print(found[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
