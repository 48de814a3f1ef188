"""Consumed samples reset: training goes on, but with the data of its first steps."""

from tasks.ranks import checkpoint

load = checkpoint.Checkpoints.load


def load_without_position(self, iteration):
    load(self, iteration)
    return 0


checkpoint.Checkpoints.load = load_without_position
