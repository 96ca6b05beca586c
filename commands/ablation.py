"""Run a published ablation table as DVC experiments -> results/ablations/<table>.parquet, the published numbers beside ours.

Without a table, lists those of ablations.yaml. With one, queues an experiment for each row, runs the queue and writes the
table. Needs a finished `make repro`. A row that is done is not run again.
"""

import models
from pipeline import command, params, tables
from pipeline.errors import ParameterError
from pipeline.experiments import ablations, dvc_queue
from pipeline.logs import LOG
from pipeline.running import cluster


def main(arguments) -> None:
    definitions = ablations.load()
    if arguments.table is None:
        for name, table in definitions.items():
            print(f"{name:24}{table.model:22}{len(table.rows):2} rows  {table.says}")
        return
    if arguments.table not in definitions:
        raise ParameterError(f"{ablations.FILE} has no table {arguments.table!r}; there are {', '.join(definitions)}")
    if arguments.jobs < 1:
        raise ParameterError(f"--jobs {arguments.jobs}: expected 1 or more")
    name, table, parameters = arguments.table, definitions[arguments.table], params.load()
    rows = ablations.chosen(table, arguments.rows, arguments.without)
    ablations.require_trained(name, table, parameters)
    ablations.require_buildable(name, table, rows, parameters)
    dvc_queue.require_repository()
    commits = ablations.run(name, table, rows, _at_once(arguments.jobs, parameters), parameters)
    frame = ablations.collect(name, table, commits, parameters)
    file = ablations.OUT / f"{name}.parquet"
    tables.write(file, frame)
    print(ablations.shown(frame, models.task_of(table.model)))
    LOG.info(f"{file}: {len(commits)} of {len(table.rows)} rows; in brackets what is published")


def _at_once(wanted: int, parameters: params.Params) -> int:
    """Experiments that fit the machine: trainings whose threads outnumber the cores are slower side by side than in turns."""
    training = parameters.training
    each = training.threads if training.workers == 1 else training.workers
    fit = wanted if training.device != "cpu" else max(1, cluster.cpus() // each)
    if fit < wanted:
        LOG.warning(
            f"{fit} at once instead of {wanted}: each trains by {each} threads and this machine has {cluster.cpus()} cores; training.threads: 1 takes one core"
        )
    return min(fit, wanted)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("table", nargs="?", help="a table of ablations.yaml; all are listed without it")
    parser.add_argument("--rows", nargs="+", help="these rows alone")
    parser.add_argument("--without", nargs="+", default=[], help="all rows but these")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at once")
    command.run(main, parser.parse_args())
