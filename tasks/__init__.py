"""The steps of a regression run. Nothing here imports torch; what runs inside a rank lives in ``tasks.ranks``."""
