"""Sentences computed from results."""
