"""The Python that runs a task: refused in one line if it is too old or new, or has not what the task imports.

Runs with Python 3.6 and later, with the standard library alone.
"""

import importlib.util
import os
import re
import shutil
import sys

import nox_python

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_HARNESS = ("yaml", "numpy", "packaging", "psutil", "tabulate")
_TRAINING = (*_HARNESS, "torch", "megatron", "tensorboard")
# What tasks need that do not train; environment and doctor say themselves what else is missing.
_NEEDED = {"clean": (), "environment": ("packaging",)}
_NEEDED.update(dict.fromkeys(("check", "diff", "doctor", "report"), _HARNESS))


def check() -> None:
    """End this process with exit code 5 and one line, if it cannot run the task of its command line."""
    words = (re.match(r"(?:-m)?tasks\.(\w+)$", word) for word in getattr(sys, "orig_argv", ()))
    task = next((word.group(1) for word in words if word), None)
    found = problem(task, sys.version_info[:2])
    if found:
        sys.stderr.write("error: " + found + "\n")
        sys.exit(nox_python.CANNOT_RUN)


def problem(task: "str | None", version: tuple) -> "str | None":
    """The reason why this process, by a Python of this version (major, minor), cannot run a task, with the
    Python to use instead; None if it can. ``task``: None for a module that is no task.
    """
    if not nox_python.supported(version):
        oldest, newest = nox_python.OLDEST, nox_python.NEWEST
        text = "this is Python {}.{}, tasks need {}.{} to {}.{}".format(*version, *oldest, *newest)
    else:
        needed = _NEEDED.get(task, _TRAINING) if task else ()
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        text = "{} lacks {}".format(sys.executable, ", ".join(missing))
    return text + ": " + _advice(version)


def _advice(version: tuple) -> str:
    own = "lts" if version < (3, 12) else "dev"
    places = [os.path.join(_CHECKOUT, ".nox", name, "bin", "python") for name in (own, "lts", "dev")]
    for path in places:
        if os.access(path, os.X_OK) and os.path.dirname(os.path.dirname(path)) != sys.prefix:
            return "use " + os.path.relpath(path)
    doctor = "nox -s doctor" if shutil.which("nox") else "make doctor"
    folder = ".nox/" + own if nox_python.supported(version) else ".nox"
    return doctor + " installs the right one, in " + folder
