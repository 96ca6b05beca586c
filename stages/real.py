"""Real composites, or iHarmony4 itself, as a further test set -> data/real/<set>/."""

import functools
from pathlib import Path

from pipeline import command, params
from pipeline.data import real_sets
from pipeline.data.sources import iharmony4
from pipeline.mask_rule import Choice
from pipeline.progress import Progress
from pipeline.running import parallel, run_folders

PARAMS = ("real_sets.{name}",)


def main(arguments) -> None:
    real_set = params.load().only(PARAMS, name=arguments.name).real_sets[arguments.name]
    describe, max_pixels = f"real {arguments.name}", int(real_set.max_megapixels * 1e6)
    choice = Choice(real_set.mask_value, real_set.mask_channel)
    options: dict = {
        "name": arguments.name,
        "kind": real_set.kind,
        "path": Path(real_set.path),
        "max_pixels": max_pixels,
        "max_rejected": real_set.max_rejected,
        "choice": choice,
    }
    if real_set.kind == "iharmony4":
        known = iharmony4.known_files(run_folders.kept("checked_real", arguments.name), max_pixels, choice)
        spread = functools.partial(parallel.spread, describe=describe, unit="photographs", chunk=32)
        real_sets.build(Path(arguments.out), known=known, parallel_map=spread, **options)
        return
    with Progress(describe, 0, "composites") as progress:
        real_sets.build(Path(arguments.out), progress=progress.reach, **options)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("name", help="a real set of params.yaml")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
