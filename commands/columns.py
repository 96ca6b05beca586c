"""Write docs/tables.md, the dictionary of the columns in results/, from the records of tasks and metrics."""

from pathlib import Path

from pipeline import atomic, command
from pipeline.scoring import columns


def main(arguments) -> None:
    with atomic.file(Path(arguments.out)) as file:
        file.write_text(columns.page(), encoding="utf-8")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--out", default="docs/tables.md", help="file to write")
    command.run(main, parser.parse_args())
