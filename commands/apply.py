"""A picture of one's own, or a folder of them -> what a method makes of it, at full size.

Localization takes a picture and gives a probability map; harmonization and inpainting take a picture and a mask (white:
foreground, or hole) and change nothing outside it.
"""

from pathlib import Path

from pipeline import command, params
from pipeline.errors import ParameterError
from pipeline.mask_rule import CHANNELS, Choice
from pipeline.networks import apply

PARAMS = ("models.{model}",)


def main(arguments) -> None:
    name = arguments.model
    task = params.task_of(name)
    block = params.load().only(PARAMS, model=name).models[name]
    if arguments.longest_side is not None and arguments.longest_side < 1:
        raise ParameterError(f"--longest-side {arguments.longest_side}: expected 1 pixel or more")
    if arguments.overlay and task != "localization":
        raise ParameterError(f"--overlay shows where a localizer looks; {name} is a method of {task}")
    mask, out = Path(arguments.mask) if arguments.mask else None, Path(arguments.out)
    work = apply.jobs(task, Path(arguments.image), mask, out, arguments.overlay)
    choice = Choice(arguments.mask_value, arguments.mask_channel)
    if choice != Choice() and mask is None:
        raise ParameterError(f"--mask-value and --mask-channel say what of a mask counts; {name} was given none")
    model = apply.stated_model(name, block, arguments.weights)
    device = apply.local_device(arguments.device)
    model = model.to("cuda" if device == "gpu" else "cpu").eval()
    apply.run(
        task,
        model,
        work,
        out,
        device=device,
        longest_side=arguments.longest_side,
        overlay=arguments.overlay,
        say=print,
        choice=choice,
    )


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--model", required=True, help="a method of params.yaml, which holds its hyperparameters")
    parser.add_argument("image", help="a picture, or a folder of pictures")
    parser.add_argument(
        "mask",
        nargs="?",
        help="its mask of the same size, or a folder of masks of the same names; not for localization",
    )
    parser.add_argument(
        "--mask-value",
        type=int,
        metavar="N",
        help="pixels of the mask of exactly this value are in; of a palette file: this class number",
    )
    parser.add_argument("--mask-channel", choices=CHANNELS, help="the channel of the mask file that holds the mask")
    parser.add_argument("-o", "--out", required=True, help="PNG file to write, or folder; it must not be there yet")
    parser.add_argument(
        "--weights", help="safetensors (if not given, models.<model>.weights, or what this project trained)"
    )
    parser.add_argument(
        "--longest-side",
        type=int,
        metavar="PIXELS",
        help="shrink larger pictures to this for the network; without it, it sees every pixel",
    )
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="localization: also <name>_overlay.png, what was found in red on the picture",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="where the network runs")
    command.run(main, parser.parse_args())
