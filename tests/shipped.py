"""The findings on which tests of explorers and statistics count, and what is true of them alone.

METHODS: a/√k + c survives for mtt under "hard", fails for random, herding and dm there, and for
all methods under "soft". COVERAGE: FAMILY is a family of its settings.
"""

from ddlib.explore import tables

METHODS = tables.FINDINGS / "methods" / "labels_cifar10"
COVERAGE = tables.FINDINGS / "coverage_law" / "mnist"
FAMILY = "optimisation-3"
MEMBERS = ("own", "nesterov", "adamw")
