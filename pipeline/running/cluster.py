"""Where Ray runs: in a cluster named by RAY_ADDRESS, else in one started for this process alone.

    python -m commands.cluster COMMAND [ARGUMENT ...]

starts one Ray head on this machine, runs the command with RAY_ADDRESS pointing at it, and takes the head down
again: a whole `dvc repro` then pays for one start.

The environment, not params.yaml, says what the machine offers, because it must not change any result:

    RAY_ADDRESS        address of a running cluster; unset: a local one
    SEAMBENCH_CPUS     cores a local cluster may use; unset: all that this process may run on
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from pipeline.errors import ParameterError, UserError

# Ray reads these when it is imported or when its workers start
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled" if "RAY_ADDRESS" not in os.environ else os.environ.get("RAY_AUTH_MODE", "token"))
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def cpus() -> int:
    """Cores that a local cluster may use."""
    found = os.environ.get("SEAMBENCH_CPUS")
    if found is None:
        return len(os.sched_getaffinity(0))
    if not found.isdecimal() or int(found) < 1:
        raise ParameterError(f"SEAMBENCH_CPUS = {found!r}: expected a number of cores, 1 or more")
    return int(found)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Ray, for as long as the block lasts. Inside another session nothing more is started.

    Raises UserError when RAY_ADDRESS names a cluster that doesn't answer.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # what workers print stays in Ray's log files: errors are raised here anyway, and Ray Train alone prints dozens of
    # lines about itself
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False, "configure_logging": True}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_listener(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"RAY_ADDRESS = {address!r}: no Ray cluster answers there ({' '.join(str(error).split())})") from None
    else:
        # loopback only: nobody outside this machine may reach a head started for one run
        ray.init(address="local", num_cpus=cpus(), include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Refuse at once an address where nothing listens; Ray would try again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # such as "auto", which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS = {address!r}: no Ray cluster answers there ({error.strerror or error})") from None


def gpus() -> int:
    """GPUs of the running cluster. Call it inside a `session`."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def require_gpus(count: int) -> None:
    """Refuse in words what Ray would wait for without end: more GPUs than the running cluster has."""
    there = gpus()
    if there < count:
        raise UserError(f"training.device = 'gpu' needs {count} GPU(s) and this Ray cluster has {there}; set training.device: cpu, or start Ray where the GPUs are")


def main() -> None:
    if len(sys.argv) < 2:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        sys.exit(2)
    import ray

    if os.environ.get("RAY_ADDRESS"):
        sys.exit(_call(sys.argv[1:], dict(os.environ)))
    try:
        with session():
            code = _call(sys.argv[1:], dict(os.environ, RAY_ADDRESS=ray.get_runtime_context().gcs_address))
    except UserError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _call(command: list[str], environment: dict[str, str]) -> int:
    """Run a command; its exit code as a shell gives it: 127 without such a command, 128 + n when signal n killed it."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while True:
        try:
            code = process.wait()
            return 128 - code if code < 0 else code
        except KeyboardInterrupt:
            continue  # a terminal's Ctrl-C reaches the command too, and it ends in its own way

