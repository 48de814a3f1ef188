"""Runs and golden cards on disk: events, cards, checkpoints, fingerprints, locks."""
