"""Parquet tables whose bytes depend on their content alone."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet

from pipeline import atomic
from pipeline.errors import UserError

# mimalloc, pyarrow's own choice, keeps what it once had: reading a table of 5000 rows cost 25 MB more than one of 500
pyarrow.set_memory_pool(pyarrow.system_memory_pool())

_DTYPES = {str: "str", int: "int64", float: "float64", bool: "bool"}


def _storable(text):
    # a file name that isn't UTF-8 arrives with surrogates, which Parquet can't hold
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text


def frame(rows: Iterable[Mapping], columns: Mapping[str, type]) -> pandas.DataFrame:
    """The rows as a table with exactly these columns, in this order, of type str, int, float or bool.

    The types hold for a table without rows too. A str may be None; a row that lacks a column, or has one more,
    is an error (KeyError). Of a generator no row is kept, which for many rows takes a fraction of a list's memory.
    """
    values: dict[str, list] = {name: [] for name in columns}
    for row in rows:
        if row.keys() != columns.keys():
            raise KeyError(f"columns that don't match: {sorted(row.keys() ^ columns.keys())} in {dict(row)}")
        for name, kind in columns.items():
            values[name].append(_storable(row[name]) if kind is str else row[name])
    made = {name: pandas.Series(values.pop(name), dtype=_DTYPES[kind]) for name, kind in columns.items()}
    return pandas.DataFrame(made, columns=list(columns))


def write(path: str | os.PathLike, table: pandas.DataFrame, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table as Parquet (zstd), its columns in the order given, its index left out.

    The file appears whole or not at all, and holds no trace of pandas: the same content gives the same bytes.
    `metadata` go into the file's schema, where `metadata_of` reads them.
    """
    arrow = pyarrow.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(
        dict(metadata) if metadata else None
    )
    with atomic.file(path) as unfinished:
        pyarrow.parquet.write_table(arrow, unfinished, compression="zstd")


def metadata_of(path: str | os.PathLike) -> dict[str, str]:
    """What `write` was given as metadata."""
    metadata = pyarrow.parquet.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}


def read(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """Read a Parquet table: all of it, or these columns in this order.

    Raises UserError naming the file, and the column where one is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table")
    try:
        present = pyarrow.parquet.read_schema(path).names
        missing = [name for name in columns or () if name not in present]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(present)}")
        table = pyarrow.parquet.read_table(path, columns=list(columns) if columns is not None else None)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet table ({' '.join(str(error).split())})") from error
    return table.to_pandas()
