"""Real composites, or iHarmony4 itself, as a further test set -> data/real/<set>/."""

from pathlib import Path

from pipeline import command, params
from pipeline.data import real_sets
from pipeline.mask_rule import Choice
from pipeline.progress import Progress

PARAMS = ("real_sets.{name}",)


def main(arguments) -> None:
    real_set = params.load().only(PARAMS, name=arguments.name).real_sets[arguments.name]
    with Progress(f"real {arguments.name}", 0, "composites") as progress:
        real_sets.build(
            Path(arguments.out),
            name=arguments.name,
            kind=real_set.kind,
            path=Path(real_set.path),
            max_pixels=int(real_set.max_megapixels * 1e6),
            max_rejected=real_set.max_rejected,
            choice=Choice(real_set.mask_value, real_set.mask_channel),
            progress=progress.reach,
        )


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("name", help="a real set of params.yaml")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
