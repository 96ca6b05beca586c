"""What a run says on the way: lines with a level, on stderr. Results are printed on stdout, progress is told by pipeline/progress.py.

Every module says its lines through LOG, at the level that the environment asks for until a command's -v or -q says another.
"""

import logging
import os
import sys

LOG = logging.getLogger("seambench")

VARIABLE = "SEAMBENCH_LOG"
"""Environment variable that holds a level of LEVELS: what -v and -q of a command say to the stages that it starts."""

LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
"""quiet: warnings and errors alone. normal: and what was done. verbose: and how, each line with its time and module."""


class _Stderr(logging.StreamHandler):
    """Writes to what sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str | None = None) -> None:
    """Show lines from this level of LEVELS on, here and in processes that are started from now on.

    level: None takes the environment's, or "normal" where that says nothing that is known.
    """
    if level is not None:
        os.environ[VARIABLE] = level
    chosen = os.environ.get(VARIABLE, "normal")
    if chosen not in LEVELS:
        chosen = "normal"
    handler = _Stderr()
    if chosen == "verbose":
        handler.setFormatter(logging.Formatter("%(asctime)s %(module)s: %(message)s", "%H:%M:%S"))
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(LEVELS[chosen])


def quiet() -> bool:
    """Whether nothing but warnings and errors is wanted: then progress isn't shown either."""
    return os.environ.get(VARIABLE) == "quiet"


configure()
