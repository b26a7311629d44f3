"""The findings on which tests of explorers and statistics count: the studies of digits."""

from ddlib.explore import tables

METHODS, COVERAGE = (tables.FINDINGS / name / "digits" for name in ("methods", "coverage_law"))
