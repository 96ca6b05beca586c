"""Photographs and instance masks of one source -> data/sources/<source>/."""

from pathlib import Path

from pipeline import command, params
from pipeline.data.ingest import ingest
from pipeline.data.sources import bundled, coco, fivek, timelapse
from pipeline.progress import Progress

PARAMS = ("seed", "sources.{source}")
READERS = {"bundled": bundled.read, "coco": coco.read, "fivek": fivek.read, "timelapse": timelapse.read}


def main(arguments) -> None:
    parameters = params.load().only(PARAMS, source=arguments.source)
    source = parameters.sources[arguments.source]
    photographs, rejected = READERS[source.kind](Path(source.path))
    with Progress(f"ingest {arguments.source}", len(photographs), "photographs") as progress:
        ingest(
            photographs,
            rejected,
            Path(arguments.out),
            source=arguments.source,
            seed=parameters.seed,
            val_share=source.validation_share,
            test_share=source.test_share,
            longest_side=source.longest_side,
            min_side=source.shortest_side,
            max_pixels=int(source.max_megapixels * 1e6),
            max_rejected=source.max_rejected,
            progress=lambda done, total: progress.add(),
        )


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("source", help="a source of params.yaml")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
