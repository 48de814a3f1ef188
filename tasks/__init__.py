"""The steps of a regression run. Nothing here imports torch; what runs in a rank lives in ``tasks.ranks``."""

import sys

if sys.argv[:1] == ["-m"]:  # python -m tasks.<task>, before the task and what it imports are read
    from tasks.util import interpreter

    interpreter.check()
