"""Run what is stale of the whole graph, up to --jobs stages at once -> results/ and report/index.html.

The outputs and DVC's lock files are those of `dvc repro`, which runs one stage at a time. Each stage's own words stand in
.runs/logs/. The environment says where the work runs: see pipeline/running/cluster.py.
"""

import os
import subprocess
import sys
from pathlib import Path

from pipeline import command, params
from pipeline.errors import ParameterError, UserError
from pipeline.running import cluster, jobs, supervisor


def main(arguments) -> None:
    if arguments.jobs < 1:
        raise ParameterError(f"--jobs {arguments.jobs}: expected 1 or more")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cluster.adopt_orphans()
    jobs.end_leftovers()
    supervisor.mend_dvc_locks(Path.cwd())
    try:
        stages, recorded = jobs.read_graph()
    except UserError:
        _check_graph()  # its words name the parameter; DVC's name the line of dvc.yaml that misses it
        raise
    chosen = jobs.to_run(stages)
    if not chosen:
        print("everything is up to date")
        return
    # only now: it builds every network, and where nothing is stale nothing can have become wrong
    _check_graph()
    parameters = params.load()
    with supervisor.Signals() as signals, supervisor.under_head(jobs.needs_cluster(parameters), signals) as head:
        if signals.number is not None:
            sys.exit(supervisor.told_to_end(signals.number))
        environment = os.environ | (head.environment if head else {})
        if arguments.jobs == 1:
            code = supervisor.supervise(
                ["dvc", "repro", *(["--keep-going"] if arguments.keep_going else [])], environment, head, signals
            )
        else:
            try:
                code = jobs.run(chosen, parameters, arguments.jobs, arguments.keep_going, environment, signals, head)
            finally:
                jobs.order_locks(stages, recorded)
    sys.exit(code)


def _check_graph() -> None:
    checked = subprocess.run([sys.executable, "-m", "commands.graph", "--check"])
    if checked.returncode:
        sys.exit(checked.returncode)


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="stages at once")
    parser.add_argument(
        "--keep-going", action="store_true", help="after a failure, go on with the stages that don't depend on it"
    )
    command.run(main, parser.parse_args())
