"""Explorers of a finished study for a notebook."""
