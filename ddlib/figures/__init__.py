"""The figures of the study, as Altair charts of tidy tables."""
