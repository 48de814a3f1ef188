"""``python -m tasks.frozen``: see ``tasks.records.kept_checkpoint``."""

from tasks.records.kept_checkpoint import main
from tasks.util.exits import exit_with

if __name__ == "__main__":
    exit_with(main)
