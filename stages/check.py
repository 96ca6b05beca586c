"""params.yaml, read and checked as a whole -> data/params_are_valid.txt, which other stages wait for.

DVC puts names of params.yaml into commands. Each stage checks the file too, but only once its command has begun.
"""

from pathlib import Path

from pipeline import atomic, command, params

PARAMS = ()
"""The stage depends on the file itself."""


def main(arguments) -> None:
    params.load()
    with atomic.file(Path(arguments.out)) as path:
        path.write_text("params.yaml was read and found valid\n")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("out", help="file to write")
    command.run(main, parser.parse_args())
