"""Photographs and instance masks of one source -> data/sources/<source>/."""

import importlib
from pathlib import Path

from pipeline import command, params
from pipeline.data.ingest import ingest
from pipeline.data.sources import folder
from pipeline.data.sources.kinds import KINDS
from pipeline.logs import LOG
from pipeline.progress import Progress

PARAMS = ("seed", "sources.{source}")


def main(arguments) -> None:
    parameters = params.load().only(PARAMS, source=arguments.source)
    source = parameters.sources[arguments.source]
    kind, reader = KINDS[source.kind], importlib.import_module(f"pipeline.data.sources.{source.kind}")
    photographs, rejected = reader.read(Path(source.path), **{key: getattr(source, key) for key in kind.takes})
    told: list[str] = []
    if kind.may_lack_splits:
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
            validation_share=source.validation_share,
            test_share=source.test_share,
            longest_side=source.longest_side,
            min_side=source.shortest_side,
            max_pixels=int(source.max_megapixels * 1e6),
            max_rejected=source.max_rejected,
            max_rejected_objects=source.max_rejected_objects,
            near_copies=source.near_copies,
            needs_objects=kind.has_objects,
            progress=lambda done, total: progress.add(),
        )
    for line in [*(f"{arguments.source}: {line}" for line in told), *lines]:
        LOG.warning(line)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("source", help="a source of params.yaml")
    parser.add_argument("out", help="folder to write")
    command.run(main, parser.parse_args())
