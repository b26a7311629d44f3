"""Data sets: named ones and your own, in memory, normalised."""
