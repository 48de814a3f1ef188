"""The steps of a regression run. Nothing here imports torch; what runs in a rank lives in ``tasks.ranks``."""
