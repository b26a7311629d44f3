"""Statistics of the two laws: fits, comparisons, covers, families, plans."""
