"""Several cases in one command: options, steps, jobs, outcomes, history."""
