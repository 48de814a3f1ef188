"""``python -m tasks.frozen``: see ``tasks.records.frozen``."""

from tasks.records.frozen import main
from tasks.util.exits import exit_with

if __name__ == "__main__":
    exit_with(main)
