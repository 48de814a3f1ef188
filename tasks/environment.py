"""``python -m tasks.environment``: see ``tasks.machine.packages``."""

from tasks.machine.packages import main
from tasks.util.exits import exit_with

if __name__ == "__main__":
    exit_with(main)
