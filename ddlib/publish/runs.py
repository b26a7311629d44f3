"""A run: a notebook with parameters, checked; what it reads, how far it is, and how it ended."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ddlib.devices import read_device
from ddlib.files import PROGRESS, from_root, read_json
from ddlib.publish.execute import read_source
from ddlib.study.settings import Exploration, Settings, read_evaluations, read_theory

TABLES = ("trials.parquet", "references.parquet")


@dataclass(frozen=True)
class Run:
    """A notebook and its parameters, checked; `name` is that of their file, with its folder."""

    name: str
    notebook: Path
    parameters: Path  # their file
    settings: Settings | Exploration

    @cached_property
    def folder(self) -> Path:
        return from_root(self.settings.results)

    @property
    def page(self) -> Path:
        return self.folder / f"{self.notebook.stem}.html"

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        """The cells of the notebook, as they are written: kind and source."""
        return [(cell.cell_type, cell.source) for cell in read_source(self.notebook).cells]

    @property
    def studies(self) -> bool:
        """Whether the notebook runs a study, so has trials to count."""
        return self._says("study.run(")

    def _says(self, code: str) -> bool:
        return any(kind == "code" and code in source for kind, source in self.cells)

    @cached_property
    def size(self) -> int:
        """How much of the progress bar this run is: its trials, and one for the rest."""
        if not self.studies:
            return 1
        given = self.settings
        each = len(read_evaluations(given)) * given.seeds
        return 1 + each * (len(given.methods) * len(given.k) + len(given.references))

    @property
    def inputs(self) -> list[Path]:
        """The results folders whose tables this run reads."""
        if isinstance(self.settings, Exploration):
            return [from_root(name) for name in self.settings.studies]
        read = [read_theory(self.settings).coverage] if self._says("read_theory(") else []
        return [from_root(name) for name in read]

    @property
    def on_card(self) -> bool:
        """Whether it computes on an accelerator of this machine, which runs then take in turn."""
        given = self.settings
        here = isinstance(given, Settings) and given.scheduler_address is None
        return here and read_device(given.device) != "cpu"

    def failed_trials(self) -> int:
        """Return how many trials, and networks trained on all data, failed: no divergence."""
        if not self.studies:
            return 0
        tables = [self.folder / name for name in TABLES]
        for path in tables:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}, though the notebook ended well")
        statuses = [pd.read_parquet(path, columns=["status"])["status"] for path in tables]
        return sum(int((each == "failed").sum()) for each in statuses)

    def done(self) -> int:
        """Return how many of its trials are done, as the study under way tells."""
        path = self.folder / PROGRESS
        told = read_json(path, names=("done",))["done"] if path.exists() else 0
        return min(told, self.size - 1)
