"""Copies of unfinished trainings in object storage, from which another machine goes on: spot instances, nodes without a disk.

    SEAMBENCH_CHECKPOINTS   a folder by its URI, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER, as pyarrow reads
                            it; `?endpoint_override=HOST:PORT&scheme=http` names another store than Amazon's. Unset: no copies

After each checkpoint the files that a training goes on from are copied to a folder of the run folder's name, and before a
training starts they are fetched from there if the run folder has no checkpoint. That name holds a hash of parameters, code
and data (pipeline/running/run_folders.py), so a copy never belongs to another training.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import atomic
from pipeline.errors import ParameterError, UserError
from pipeline.logs import LOG
from pipeline.networks import checkpoints

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

VARIABLE = "SEAMBENCH_CHECKPOINTS"
FILES = ("best.safetensors", "training.log", checkpoints.NEWEST)
"""In this order: where the checkpoint stands, what belongs to it does too."""

PIECE = 2**22
"""Bytes that are read and written at a time."""


def push(folder: Path) -> None:
    """Copy what a run folder's training goes on from. When that fails a line says so: the training itself is whole without."""
    if VARIABLE not in os.environ:
        return
    try:
        store, there = _place(folder)
        if store.type_name == "local":  # an object store has no folders and needs none
            store.create_dir(there)
        for name in FILES:
            if (folder / name).exists():
                _write(store, folder / name, f"{there}/{name}")
    except OSError as error:
        LOG.warning(f"{VARIABLE} = {os.environ[VARIABLE]!r}: {folder.name} couldn't be copied there ({_words(error)})")


def pull(folder: Path) -> None:
    """Fetch the copies for a run folder that has no checkpoint of its own; nothing where there are none.

    Raises UserError when the storage doesn't answer: training from the start would be the costlier surprise.
    """
    if VARIABLE not in os.environ or any((folder / name).exists() for name in (checkpoints.NEWEST, checkpoints.BEFORE)):
        return
    from pyarrow.fs import FileSelector

    store, there = _place(folder)
    try:
        copied = {info.base_name for info in store.get_file_info(FileSelector(there, allow_not_found=True))}
        if checkpoints.NEWEST not in copied:
            return
        for name in FILES:
            if name in copied:
                with store.open_input_stream(f"{there}/{name}") as source, atomic.file(folder / name) as path:
                    with open(path, "wb") as target:
                        while piece := source.read(PIECE):
                            target.write(piece)
    except OSError as error:
        raise UserError(f"{VARIABLE} = {os.environ[VARIABLE]!r}: {_words(error)}") from None
    LOG.info(f"{folder.name}: its checkpoint was fetched from {os.environ[VARIABLE]}")


def _place(folder: Path) -> tuple["FileSystem", str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        store, path = FileSystem.from_uri(os.environ[VARIABLE])
    except (ArrowInvalid, OSError) as error:
        raise ParameterError(f"{VARIABLE} = {os.environ[VARIABLE]!r}: {_words(error)}") from None
    return store, f"{path.rstrip('/')}/{folder.name}"


def _write(store: "FileSystem", file: Path, there: str) -> None:
    """An object appears whole; a file of a local folder is renamed when it is."""
    local = store.type_name == "local"
    with open(file, "rb") as source, store.open_output_stream(f"{there}.part" if local else there) as target:
        while piece := source.read(PIECE):
            target.write(piece)
    if local:
        store.move(f"{there}.part", there)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
