"""Print a task's scores as the tables of papers: methods by sub-dataset, hole bucket, size or protocol -> LaTeX, Markdown, CSV.

Below a LaTeX table stand the BibTeX entries of its methods, as comments.
"""

from pathlib import Path

import models
from pipeline import command
from pipeline.report import citations, paper_tables
from pipeline.tasks import TASKS


def main(arguments) -> None:
    results = Path("results") / arguments.task
    table = paper_tables.read(arguments.task, results, arguments.by, arguments.metrics)
    print(paper_tables.written(table, arguments.format), end="")
    if arguments.format == "latex":
        known = [name for name in table.means.index if name in models.names()]
        print("\n".join(f"% {line}" for line in citations.bibliography(known).splitlines()))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--format", choices=paper_tables.FORMATS, default="markdown")
    parser.add_argument(
        "--by", choices=paper_tables.BY, default="subset", help="what the columns are; bucket: holes by ratio"
    )
    parser.add_argument(
        "--metrics", nargs="+", help="columns of the tables; those that the task leads with if not given"
    )
    command.run(main, parser.parse_args())
