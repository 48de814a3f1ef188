"""``python -m tasks.corpus``: see ``tasks.cases.corpus``."""

from tasks.cases.corpus import main
from tasks.util.exits import exit_with

if __name__ == "__main__":
    exit_with(main)
