"""Add finished studies to the findings: `python -m ddlib.explore.findings RESULTS_FOLDER...`.

Findings are small copies of studies that come with the library, in
`ddlib/findings/<notebook>/<profile>/`: tables, settings and provenance, without data, distilled
sets and networks. Explorers and notebooks read them; `python -m ddlib.study.check` recomputes
trials of them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddlib.explore import sheets, tables
from ddlib.files import exit_with_sentence, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.words.text import listed


def write_findings(folders: Sequence[str | Path], target: Path = tables.FINDINGS) -> list[Path]:
    """Copy the tables of these results folders to `target`; return the folders there.

    A copy is named by the last two parts of its folder, such as scaling_law/adult. Distilled images
    become small sheets. Raises ValueError for a study without provenance, and the errors of
    `tables.read`, before anything is written.
    """
    studies = [tables.read(folder) for folder in folders]
    places = [target.joinpath(*study.folder.parts[-2:]) for study in studies]
    for place, study in zip(places, studies, strict=True):
        if not study.provenance:
            raise ValueError(
                f"the study in {study.folder} has no {tables.PROVENANCE}; run its notebook again, "
                "which writes it"
            )
        if place.parent.name not in tables.STUDIES:
            raise ValueError(
                f"{study.folder} lies in none of the folders {listed(tables.STUDIES)}; name it "
                "after its notebook, such as results/methods/mine"
            )
        if place == study.folder:
            raise ValueError(
                f"{place} is a finding already; give the results folder that its notebook wrote"
            )
        if places.count(place) > 1:
            raise ValueError(
                f"{study.folder} cannot become {place}, which is another one's; rename it"
            )
    for place, study in zip(places, studies, strict=True):
        for old in place.glob("*"):  # of an earlier study
            old.unlink()
        settings = (study.folder / "settings.json").read_bytes()
        write_atomically(place / "settings.json", settings)
        origin = plain_text(dict(study.provenance))
        write_atomically(place / tables.PROVENANCE, origin.encode())
        frames = {name: getattr(study, name) for name in tables.FRAMES}
        for name, frame in {**frames, "sheets": sheets.small(study.sheets)}.items():
            if len(frame):
                content = frame.to_parquet(index=False, compression="zstd")
                write_atomically(place / f"{name}.parquet", content)
        if study.distances is not None:
            tables.write_distances(place, study.distances, study.noise)
    return places


@exit_with_sentence()
def main(arguments: Sequence[str] | None = None) -> None:
    """Add findings from a shell."""
    parser = argparse.ArgumentParser(
        "python -m ddlib.explore.findings", description=__doc__.split(":")[0]
    )
    parser.add_argument("folders", nargs="+", help="results folders of studies that have ended")
    for place in write_findings(parser.parse_args(arguments).folders):
        size = sum(path.stat().st_size for path in place.iterdir())
        print(f"{place}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
