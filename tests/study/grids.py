"""A small grid of trials."""

from pathlib import Path

from ddlib.study.settings import Settings

DIGITS = {"name": "digits", "classes": [0, 1, 2], "per_class": 20}
DM = {"iterations": 3, "real_batch": 8, "augmentation": "none"}
DC = {"iterations": 2, "outer_steps": 2, "inner_epochs": 1, "real_batch": 8}
GRID = {
    "data": DIGITS,
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.05},
    "methods": {"random": None, "dm": DM, "dc": DC},
    **{"k": [6, 3], "seeds": 2, "evaluations": 2, "converged": {"held_out": 0.5}},
}


def settings(folder: Path, **changes) -> Settings:
    """Return the settings of the grid, with some changes; folder: of results, beside the cache."""
    places = {"results": str(folder), "cache": str(folder.with_name("cache"))}
    return Settings.read(GRID | places | changes)
