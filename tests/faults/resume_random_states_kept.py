"""RNG states not restored: the restarted ranks go on with the random numbers of a fresh start."""

from tasks.ranks import checkpoint

checkpoint.restore_random_states = lambda states: None
