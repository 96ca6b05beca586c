"""How every stage meets the command line: help, one line for an error, honest exit codes."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UserError


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser whose help shows defaults and which knows --debug."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error instead of one line")
    return made


def run(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Call `main(arguments)` and leave the process: 0 done, 1 failed work, 2 wrong parameters, 130 interrupted.

    A UserError is printed as one line on stderr; with --debug, and for any other exception, its traceback shows.
    The exit code is the same with --debug.
    """
    try:
        main(arguments)
    except UserError as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            print(f"{Path(sys.argv[0]).stem}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
