"""The papers' numbers, and ours beside them -> results/published/: published.parquet, compared.parquet, correlations.parquet."""

from pathlib import Path

import pandas as pd

from pipeline import atomic, command, tables
from pipeline.scoring import published
from pipeline.tasks import TASKS

PARAMS = ()


def main(arguments) -> None:
    printed = published.table()
    frames = []
    for folder in map(Path, arguments.results):
        frames.append(
            published.measured(
                *(tables.read(folder / f"{name}.parquet") for name in TASKS[folder.name].compared_tables)
            )
        )
    compared = published.compare(pd.concat(frames, ignore_index=True), printed)
    with atomic.folder(arguments.out) as out:
        tables.write(out / "published.parquet", printed)
        tables.write(out / "compared.parquet", compared)
        tables.write(out / "correlations.parquet", published.correlations(compared))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("results", nargs="+", help="folders results/<task> that evaluation wrote")
    parser.add_argument("--out", default="results/published", help="folder to write")
    command.run(main, parser.parse_args())
