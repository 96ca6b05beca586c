"""Photographs and instance masks of one source -> data/sources/<source>/."""

from pathlib import Path

from pipeline import command, params
from pipeline.data.ingest import ingest
from pipeline.data.sources import bundled, coco, fivek, folder, timelapse
from pipeline.logs import LOG
from pipeline.mask_rule import Choice
from pipeline.progress import Progress

PARAMS = ("seed", "sources.{source}")
READERS = {
    "bundled": bundled.read,
    "coco": coco.read,
    "fivek": fivek.read,
    "timelapse": timelapse.read,
    "folder": folder.read,
}


def main(arguments) -> None:
    parameters = params.load().only(PARAMS, source=arguments.source)
    source = parameters.sources[arguments.source]
    options: dict = {}
    if source.kind == "coco":
        options = {"crowd": source.crowd_objects}
    elif source.kind in ("fivek", "timelapse"):
        options = {"choice": Choice(source.mask_value, source.mask_channel)}
    elif source.kind == "folder":
        options = {"lists": source.lists}
    photographs, rejected = READERS[source.kind](Path(source.path), **options)
    told: list[str] = []
    if source.kind == "folder":
        photographs, told = folder.with_all_splits(
            photographs, parameters.seed, source.validation_share, source.test_share
        )
    with Progress(f"ingest {arguments.source}", len(photographs), "photographs") as progress:
        lines = ingest(
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
            max_rejected_objects=source.max_rejected_objects,
            near_copies=source.near_copies,
            needs_objects=source.kind != "folder",
            progress=lambda done, total: progress.add(),
        )
    for line in [*(f"{arguments.source}: {line}" for line in told), *lines]:
        LOG.warning(line)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("source", help="a source of params.yaml")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
