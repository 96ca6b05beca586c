"""Photographs with instance masks -> one sub-dataset of composites, data/composites/<subset>/."""

import functools
from pathlib import Path

from pipeline import command, params
from pipeline.data.composites.build import build
from pipeline.errors import ParameterError
from pipeline.running import parallel, run_folders

PARAMS = ("seed", "composites.subsets.{subset}", "composites.rendering")


def main(arguments) -> None:
    parameters = params.load().only(PARAMS, subset=arguments.subset)
    subset, rendering = parameters.composites.subsets[arguments.subset], parameters.composites.rendering
    if subset.recipe == "iharmony4":
        raise ParameterError(
            f"composites.subsets.{arguments.subset} is of recipe iharmony4; `python -m stages.iharmony4` checks it"
        )
    source, references = Path(arguments.source).absolute(), Path(arguments.references).absolute()
    manifests = [
        folder / name for folder in (source, references) for name in ("photographs.parquet", "instances.parquet")
    ]
    build(
        Path(arguments.out),
        name=arguments.subset,
        subset=subset,
        rendering=rendering,
        source=source,
        references=references,
        seed=parameters.seed,
        staging=run_folders.run_folder(
            f"synthesize-{arguments.subset}", parameters.seed, subset, rendering, *manifests
        ),
        parallel_map=functools.partial(parallel.spread, describe=f"synthesize {arguments.subset}", unit="objects"),
    )


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("subset", help="a sub-dataset of params.yaml")
    parser.add_argument("source", help="folder of the photographs, from ingest")
    parser.add_argument("references", help="folder of what lends the colours, from ingest")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
