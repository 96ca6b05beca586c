"""Which methods can be exported as ONNX files, and why the others can't: the table of docs/export.md.

    python -m benchmarks.export [--only rainnet pct] [--size 96]
    python -m benchmarks.export --published --only unet pct pconv --size 256

Every method is built with seeded weights, in the small form of its test vector, whose operators are those of the published
one, or with --published in the size that its paper states (the defaults of its hyperparameters), and exported as
commands.export does. A row is printed as soon as it is known.
"""

import argparse
import inspect
import tempfile
from pathlib import Path

import torch

import models
from pipeline.errors import UserError
from pipeline.networks import export
from tests.models import vector


def published(name: str) -> models.Model:
    """A method with its default hyperparameters and seeded weights."""
    torch.manual_seed(0)
    without = ("backbone_weights", "perceptual_weights")
    taken = inspect.signature(models.class_of(name)).parameters
    return models.create(name, **{key: "none" for key in without if key in taken})


def row(name: str, side: int, full: bool) -> str:
    """A line of the table; `full`: in the published size. A network that reads squares of another size than `side` is
    exported at its vector's."""
    model = published(name) if full else vector.load(name).fresh()
    millions = sum(value.numel() for value in model.predictor_parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        try:
            try:
                made = export.export(name, model, file, side)
            except UserError as refusal:
                if full or not str(refusal).startswith("--size"):
                    raise
                made = export.export(name, vector.load(name).fresh(), file, vector.load(name).size)
        except UserError as refusal:
            return f"| `{name}` | {millions:.2g} M | no | {str(refusal).removeprefix(f'{name} can' + chr(39) + 't be exported: ')} |"
    sizes = f"fixed: {made.fixed}" if made.fixed else "free" + (f", multiples of {made.multiple}" * (made.multiple > 1))
    checks = "; ".join(f"{difference:.0e} at {width}x{height}" for height, width, difference in made.checks)
    return f"| `{name}` | {millions:.2g} M | {sizes} | {checks} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=models.names(), help="these methods; all if not given")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures")
    parser.add_argument("--published", action="store_true", help="build them in their published size")
    options = parser.parse_args()
    print("| method | parameters | sizes | largest difference from torch, or what stands in the way |")
    print("| --- | --- | --- | --- |")
    for name in options.only or models.names():
        print(row(name, options.size, options.published), flush=True)


if __name__ == "__main__":
    main()
