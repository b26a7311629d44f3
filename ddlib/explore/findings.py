"""Add finished studies to the findings: `python -m ddlib.explore.findings RESULTS_FOLDER...`.

Findings are small copies of studies that come with the library, in
`ddlib/findings/<notebook>/<profile>/`: tables, settings and provenance, without data, distilled
sets and networks. Explorers and notebooks read them; `python -m ddlib.study.check` recomputes
trials of them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ddlib.explore import sheets, tables
from ddlib.files import write_atomically


def write_findings(folders: Sequence[str | Path], target: Path = tables.FINDINGS) -> list[Path]:
    """Copy the tables of these results folders to `target`; return the folders there.

    A copy is named by the last two parts of its folder, such as scaling_law/adult. Distilled images
    become small sheets. Raises the errors of `tables.read`, before anything is written.
    """
    places = []
    for study in [tables.read(folder) for folder in folders]:
        place = target.joinpath(*study.folder.parts[-2:])
        for name in ("settings.json", tables.PROVENANCE):
            if (study.folder / name).is_file():
                write_atomically(place / name, (study.folder / name).read_bytes())
        frames = {name: getattr(study, name) for name in tables.FRAMES}
        for name, frame in {**frames, "sheets": sheets.small(study.sheets)}.items():
            if len(frame):
                content = frame.to_parquet(index=False, compression="zstd")
                write_atomically(place / f"{name}.parquet", content)
        if study.distances is not None:
            tables.write_distances(place, study.distances, study.noise)
        places.append(place)
    return places


def main(folders: Sequence[str]) -> None:
    """Add findings from a shell; on an error, print one sentence and exit with code 1."""
    if not folders:
        sys.exit("usage: python -m ddlib.explore.findings RESULTS_FOLDER...")
    try:
        places = write_findings(folders)
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    for place in places:
        size = sum(path.stat().st_size for path in place.iterdir())
        print(f"{place}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
