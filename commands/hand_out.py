"""A test split's inputs, without the truth -> a folder for a method that runs elsewhere, with a page that says what to give back."""

from pathlib import Path

from pipeline import atomic, command, params
from pipeline.data import datasets
from pipeline.errors import ParameterError, UserError
from pipeline.running import graph, parallel
from pipeline.scoring import inputs
from pipeline.tasks import TASKS

PARAMS = ()


def main(arguments) -> None:
    task, out = arguments.task, Path(arguments.folder)
    parameters = params.load()
    if out.exists():
        raise UserError(f"{out} is there already; remove it or give another name")
    data = [Path(path).absolute() for path in graph.folders_of(task, parameters)[1]]
    splits = datasets.test_splits(task, data)
    if arguments.split not in splits:
        raise ParameterError(f"--split {arguments.split}: expected one of {', '.join(splits)}")
    options = (
        {"max_foreground": parameters.localization.max_foreground}
        if parameters.localization is not None and TASKS[task].region is None
        else {}
    )
    dataset = datasets.for_testing(task, data, parameters.image_size, arguments.split, **options)
    with atomic.folder(out) as folder:
        count = inputs.write(
            task, dataset, arguments.split, folder, original=arguments.size == "original", spread=parallel.spread
        )
    print(f"{out}: {count} images of {task}, split {arguments.split}; {out}/README.md says what to give back")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("folder", help="folder to write; it must not be there yet")
    parser.add_argument("--split", default="test", help="test, or a real set")
    parser.add_argument("--size", choices=["image_size", "original"], default="image_size", help="of the pictures")
    command.run(main, parser.parse_args())
