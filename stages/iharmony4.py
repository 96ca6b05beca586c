"""Sub-datasets of the real iHarmony4, checked where they lie -> data/composites/<subset>/."""

import functools
from pathlib import Path

from pipeline import command, params
from pipeline.data import listed_subsets
from pipeline.data.sources import iharmony4
from pipeline.errors import ParameterError
from pipeline.logs import LOG
from pipeline.mask_rule import Choice
from pipeline.running import parallel, run_folders

PARAMS = ("seed", "composites.subsets.{subset}")


def main(arguments) -> None:
    parameters = params.load().only(PARAMS, subset=arguments.subset)
    subset = parameters.composites.subsets[arguments.subset]
    if subset.recipe != "iharmony4":
        raise ParameterError(
            f"composites.subsets.{arguments.subset} is of recipe {subset.recipe}; `python -m stages.synthesize` makes it"
        )
    choice = Choice(subset.mask_value, subset.mask_channel)
    lines = listed_subsets.build(
        Path(arguments.out),
        name=arguments.subset,
        subset=subset,
        seed=parameters.seed,
        known=iharmony4.known_files(
            run_folders.kept("checked", arguments.subset), int(subset.max_megapixels * 1e6), choice
        ),
        parallel_map=functools.partial(
            parallel.spread, describe=f"iharmony4 {arguments.subset}", unit="photographs", chunk=32
        ),
    )
    for line in lines:
        LOG.warning(line)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("subset", help="a sub-dataset of params.yaml of recipe iharmony4")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
