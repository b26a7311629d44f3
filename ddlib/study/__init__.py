"""The grid of trials: plan, jobs, workers, tables."""
