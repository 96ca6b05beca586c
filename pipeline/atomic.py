"""Outputs that appear whole or not at all, and that are on the disk once they have their name.

A rename is only as good as what it publishes: after a power failure a file system may know the new name and not yet the
content. So content is flushed to the disk (fsync) before the rename.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.logs import LOG


@contextlib.contextmanager
def folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it takes the name `path` when the block ends well.

    What stood at `path` is replaced. If the block raises, the unfinished folder is removed and `path` stays as
    it was; a killed process leaves only the unfinished `.<name>.part`, which the next run clears.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for parent, _, names in os.walk(unfinished):
        for name in names:
            _flush(os.path.join(parent, name))
    if path.is_dir():
        shutil.rmtree(path)
    unfinished.rename(path)
    LOG.debug(f"wrote {path}")


@contextlib.contextmanager
def file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; the finished file takes the name `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, path)
        LOG.debug(f"wrote {path}")
    finally:
        unfinished.unlink(missing_ok=True)


def _flush(file: str | os.PathLike) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
