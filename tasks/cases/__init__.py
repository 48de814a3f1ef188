"""Test cases: their files, inheritance, flags, metrics, quarantine and data."""
