"""Executed notebooks, pages, batches and the report."""
