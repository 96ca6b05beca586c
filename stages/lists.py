"""iHarmony4's lists over all sub-datasets -> data/composites/IHD_*.txt and le50_*.txt."""

from pathlib import Path

from pipeline import command
from pipeline.data.composites.lists import write_joint_lists

PARAMS = ()


def main(arguments) -> None:
    write_joint_lists(Path(arguments.out), [Path(folder) for folder in arguments.subsets])


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("subsets", nargs="+", help="folders data/composites/<subset>")
    parser.add_argument("--out", default="data/composites", help="folder to write the lists to")
    command.run(main, parser.parse_args())
