"""All tables, trainings, predictions and data -> report/index.html, one page that opens without a network."""

from pathlib import Path

from pipeline import atomic, command, params
from pipeline.report import page

PARAMS = ("report",)
"""And all the rest: the page says in what params.yaml differs from its preset, so the file itself is a dependency."""


def main(arguments) -> None:
    parameters = params.load()
    html = page.render(
        parameters,
        results=Path("results"),
        artifacts=Path("artifacts"),
        data=Path("data"),
        file=Path("params.yaml"),
        presets=Path("presets"),
    )
    with atomic.folder(arguments.out) as out:
        (out / "index.html").write_text(html, encoding="utf-8")


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--out", default="report", help="folder to write")
    command.run(main, parser.parse_args())
