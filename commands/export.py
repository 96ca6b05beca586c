"""A method as an ONNX file, for programs that have neither torch nor this project.

The inputs are `picture`, float32 RGB (1, 3, H, W) in 0 to 1, and for harmonization and inpainting `mask`, (1, 1, H, W),
1 = foreground or hole. The output is `pasted`, the picture with its masked region replaced, or in localization `map`,
(1, 1, H, W), the probability of each pixel. Normalization and pasting are inside. The file appears only if onnxruntime
computes from it what torch computes, within 1e-4 at two sizes. Methods without weights have none;
docs/export.md says which networks can't be exported.
"""

from pathlib import Path

from pipeline import command, params
from pipeline.errors import ParameterError
from pipeline.networks import apply, export

PARAMS = ("models.{model}",)


def main(arguments) -> None:
    name, out = arguments.model, Path(arguments.out)
    params.task_of(name)
    block = params.load().only(PARAMS, model=name).models[name]
    if out.suffix != ".onnx":
        raise ParameterError(f"{out}: expected a name that ends in .onnx")
    if out.exists():
        raise ParameterError(f"{out} is there already; remove it or give another name")
    if arguments.size < 32:
        raise ParameterError(f"--size {arguments.size}: expected 32 pixels or more")
    export.require_packages()
    model = apply.stated_model(name, block, arguments.weights)
    made = export.export(name, model, out, arguments.size)
    if made.fixed:
        height, width, _ = made.checks[0]
        print(f"{name}: the size is fixed at {width}x{height} ({made.fixed})")
    else:
        print(f"{name}: any size" + (f" whose sides are multiples of {made.multiple}" if made.multiple > 1 else ""))
    for height, width, difference in made.checks:
        print(f"checked at {width}x{height}: onnxruntime differs from torch by at most {difference:.1e}")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a method of params.yaml, which holds its hyperparameters")
    parser.add_argument("-o", "--out", required=True, help="ONNX file to write; it must not be there yet")
    parser.add_argument(
        "--weights", help="safetensors (if not given, models.<model>.weights, or what this project trained)"
    )
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side that is traced and checked")
    command.run(main, parser.parse_args())
