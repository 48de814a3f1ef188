"""Comparison of a run with its golden card and of a restart with its run. Starts nothing, prints nothing."""
