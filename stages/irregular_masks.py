"""Irregular holes by hole-ratio bucket, and which test photograph gets which -> data/irregular_masks/."""

import functools
from pathlib import Path

from pipeline import atomic, command, params, tables
from pipeline.errors import ParameterError
from pipeline.irregular_masks.assignment import assign
from pipeline.irregular_masks.dataset import build, build_from_folder
from pipeline.mask_rule import Choice
from pipeline.running import parallel

PARAMS = ("seed", "image_size", "irregular_masks")


def main(arguments) -> None:
    parameters = params.load().only(PARAMS)
    settings = parameters.irregular_masks
    per_bucket = {"train": settings.per_bucket.train, "test": settings.per_bucket.test}
    photographs = tables.read(Path(arguments.source) / "photographs.parquet", ["image_id", "split"])
    tested = sorted(photographs.loc[photographs["split"] == "test", "image_id"])
    with atomic.folder(Path(arguments.out).absolute()) as out:
        options = {
            "per_bucket": per_bucket,
            "size": parameters.image_size,
            "border": settings.border,
            "seed": parameters.seed,
        }
        options["parallel_map"] = functools.partial(parallel.spread, describe="irregular masks", unit="masks", chunk=32)
        try:
            if settings.folder is None:
                masks = build(out, kinds=settings.kinds, **options)
            else:
                choice = Choice(settings.mask_value, settings.mask_channel)
                masks = build_from_folder(
                    out, Path(settings.folder).absolute(), polarity=settings.polarity, choice=choice, **options
                )
        except ValueError as error:
            raise ParameterError(f"params.yaml: irregular_masks: {error}") from None
        tables.write(out / "assigned.parquet", assign(tested, masks[masks["split"] == "test"], parameters.seed))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("source", help="folder of the photographs whose holes are to be filled, from ingest")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
