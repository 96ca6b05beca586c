"""What all localizers found before and after harmonization -> results/detectability/: per_image.parquet, summary.parquet."""

from pathlib import Path

import pandas as pd

from pipeline import atomic, command, params, tables
from pipeline.detectability import credits
from pipeline.scoring.statistics import Resampling

PARAMS = ("seed", "evaluation.bootstrap", "evaluation.confidence")


def main(arguments) -> None:
    parameters = params.load().only(PARAMS)
    scores = pd.concat([tables.read(Path(table)) for table in arguments.tables], ignore_index=True)
    resampling = Resampling(parameters.seed, parameters.evaluation.bootstrap, parameters.evaluation.confidence)
    with atomic.folder(arguments.out) as out:
        tables.write(out / "per_image.parquet", scores)
        tables.write(out / "summary.parquet", credits.summary(scores, resampling))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("tables", nargs="+", help="artifacts/detectability/<localizer>.parquet of every localizer")
    parser.add_argument("--out", default="results/detectability", help="folder to write")
    command.run(main, parser.parse_args())
