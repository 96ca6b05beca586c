"""How every stage meets the command line: help, one line for an error, honest exit codes."""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline import logs
from pipeline.errors import UserError, lacks_memory
from pipeline.logs import LOG

# before torch is loaded: its threads that wait for each other give way soon. Spinning on for as long as is their default makes a
# training 15 times as slow where another program shares the cores
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser whose help shows defaults and which knows --debug, -v and -q."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error instead of one line")
    how_much = made.add_mutually_exclusive_group()
    how_much.add_argument(
        "-v", "--verbose", dest="log", action="store_const", const="verbose", help="say what is done in between too"
    )
    how_much.add_argument(
        "-q", "--quiet", dest="log", action="store_const", const="quiet", help="say warnings and errors alone"
    )
    return made


_FULL = (errno.ENOSPC, errno.EDQUOT)
_LESS_MEMORY = (
    "lower a network's training.batch_size, inference.batch_size or image_size, or run fewer stages at once (JOBS)"
)
_OF_THE_MACHINE = (*_FULL, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO)


def _refused_by_machine(error: BaseException) -> str | None:
    """What to say of an error that a file system raised; None for any other."""
    names: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        full = (
            (isinstance(seen, OSError) and seen.errno in _FULL)
            or "No space left on device" in str(seen)
            or "[Errno 28]" in str(seen)
        )
        names += [str(seen.filename)] if isinstance(seen, OSError) and seen.filename else []
        if full:
            return "the disk is full" + (f" ({names[-1]})" if names else "") + "; free some space and start again"
        if lacks_memory(seen):
            return f"not enough memory; {_LESS_MEMORY}"
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, OSError) and error.strerror and (error.filename or error.errno in _OF_THE_MACHINE):
        return f"{error.filename or 'this machine'}: {error.strerror}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from"):
        return f"{str(error).removeprefix('Symlink loop from ')}: a loop of links"
    return None


def _short(said: str) -> str:
    """One line, the middle of very long words (names of thousands of letters) left out."""
    return " ".join(word if len(word) <= 300 else f"{word[:100]}...{word[-60:]}" for word in said.split())


def run(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Call `main(arguments)` and leave the process: 0 done, 1 failed work, 2 wrong parameters, 130 interrupted.

    A UserError is printed as one line on stderr, and so is what the machine refuses (a full disk, a folder that may not be
    written, a name that is too long, a loop of links, memory); with --debug, and for any other exception, its traceback shows. The
    exit code is the same with --debug.
    """
    logs.configure(arguments.log)
    try:
        main(arguments)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else _refused_by_machine(error)
        if said is None or arguments.debug:
            traceback.print_exc()
        else:
            LOG.error(f"{Path(sys.argv[0]).stem}: {_short(said)}")
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        LOG.error("interrupted")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
