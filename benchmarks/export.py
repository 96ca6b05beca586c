"""Which methods can be exported as ONNX files, and why the others can't: the table of docs/export.md.

    python -m benchmarks.export [--only rainnet pct] [--size 96]

Every method is built in the small form of its test vector, whose operators are those of the published one, with seeded
weights, and exported as commands.export does. A row is printed as soon as it is known.
"""

import argparse
import tempfile
from pathlib import Path

import models
from pipeline.errors import UserError
from pipeline.networks import export
from tests.models import vector


def row(name: str, side: int) -> str:
    """A line of the table. A network that reads squares of another size than `side` is exported at its vector's."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            try:
                made = export.export(name, vector.load(name).fresh(), Path(folder) / "model.onnx", side)
            except UserError as refusal:
                if not str(refusal).startswith("--size"):
                    raise
                case = vector.load(name)
                made = export.export(name, case.fresh(), Path(folder) / "model.onnx", case.size)
        except UserError as refusal:
            return f"| `{name}` | no | {str(refusal).removeprefix(f'{name} can' + chr(39) + 't be exported: ')} |"
    sizes = f"fixed: {made.fixed}" if made.fixed else "free" + (f", multiples of {made.multiple}" * (made.multiple > 1))
    return f"| `{name}` | {sizes} | {max(check[2] for check in made.checks):.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=models.names(), help="these methods; all if not given")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures")
    options = parser.parse_args()
    print("| method | sizes | largest difference from torch, or what stands in the way |\n| --- | --- | --- |")
    for name in options.only or models.names():
        print(row(name, options.size), flush=True)


if __name__ == "__main__":
    main()
