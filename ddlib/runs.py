"""A run: a notebook with parameters, checked; what decides it, and whether it has ended well.

Whoever runs the notebook (`ddlib.execute`) leaves a note of what decided it beside its tables.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ddlib import data
from ddlib.devices import read_device
from ddlib.extensions import read_extensions
from ddlib.files import NOTE, PROGRESS, from_root, read_json
from ddlib.fingerprints import files_digest, fingerprint, library_digest, plain_text
from ddlib.methods import METHODS
from ddlib.page import read_notebook
from ddlib.settings import (
    Exploration,
    Settings,
    data_options,
    read_evaluations,
    read_methods,
    read_theory,
)

TABLES = ("trials.parquet", "references.parquet")
READ = (".parquet", "settings.json", ".safetensors")  # what notebooks read of a results folder


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
        return [(cell.cell_type, cell.source) for cell in read_notebook(self.notebook).cells]

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
        return 1 + each * (len(given.methods) * len(given.k) + 1)

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

    def identity(self) -> str:
        """Return a fingerprint of all that decides this run; the number of workers does not.

        Images, which may be many, are known by the sizes of their files and when they changed.
        """
        given = vars(self.settings) | {"workers": None, "scheduler_address": None}
        given["extensions"] = [each.text for each in read_extensions(given.get("extensions"))]
        tables = [files_digest(folder, READ) for folder in self.inputs]
        read = [self.cells, plain_text(given), library_digest(), tables]
        if isinstance(self.settings, Settings):
            methods = read_methods(self.settings).values()
            read += [METHODS[base].reads(parameters) for base, parameters in methods]
            stats = [path.stat() for path in data.files(data_options(self.settings)["name"])]
            read += [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return fingerprint(read)

    def is_current(self, identity: str) -> bool:
        """Whether it ended well, of what `identity` names, and all that it left is still there."""
        path = self.folder / NOTE
        if not path.exists():
            return False
        note = read_json(path, names=("identity", "files"))
        files = [self.folder / name for name in note["files"]] + self._tables
        there = all(file.exists() for file in files)
        return there and note["identity"] == identity and not self.failed_trials()

    def failed_trials(self) -> int:
        """Return how many trials, and networks trained on all data, failed: no divergence."""
        for path in self._tables:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}, though the notebook ended well")
        statuses = [pd.read_parquet(path, columns=["status"])["status"] for path in self._tables]
        return sum(int((each == "failed").sum()) for each in statuses)

    @property
    def _tables(self) -> list[Path]:
        """What its study leaves, if it runs one."""
        return [self.folder / name for name in TABLES] if self.studies else []

    def done(self) -> int:
        """Return how many of its trials are done, as the study under way tells."""
        path = self.folder / PROGRESS
        told = read_json(path, names=("done",))["done"] if path.exists() else 0
        return min(told, self.size - 1)
