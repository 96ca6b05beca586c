"""Run what is stale of the whole graph, up to --jobs stages at once -> results/ and report/index.html.

The outputs and DVC's lock files are those of `dvc repro`, which runs one stage at a time. Each stage's own words stand in
.runs/logs/. The environment says where the work runs: see pipeline/running/cluster.py.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    # beside the reading of DVC's graph: it builds every network, which takes longer
    with _graph_being_checked() as wait_for_check:
        try:
            stages, recorded = jobs.read_graph()
        except UserError:
            wait_for_check()  # its words name the parameter; DVC's name the line of dvc.yaml that misses it
            raise
        chosen = jobs.to_run(stages)
        if not chosen:  # where nothing is stale nothing can have become wrong
            print("everything is up to date")
            return
        wait_for_check()
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


@contextlib.contextmanager
def _graph_being_checked() -> Iterator[Callable[[], None]]:
    """Start `commands.graph --check`; gives what waits for it and leaves this process where it fails. On the way out it is ended,
    and what it said is heard only by who waited."""
    with subprocess.Popen(
        [sys.executable, "-m", "commands.graph", "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as checking:

        def wait() -> None:
            said, _ = checking.communicate()
            sys.stderr.write(said)
            if checking.returncode:
                sys.exit(checking.returncode)

        try:
            yield wait
        finally:
            checking.kill()


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="stages at once")
    parser.add_argument(
        "--keep-going", action="store_true", help="after a failure, go on with the stages that don't depend on it"
    )
    command.run(main, parser.parse_args())
