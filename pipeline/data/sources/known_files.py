"""What was found in picture files, remembered from run to run by each file's size and time of change.

Checking tens of thousands of pictures means decoding them all. A file whose size and time are those of the last check was
not changed since, as DVC and make assume too, and what was found then still holds.
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

from pipeline import tables
from pipeline.errors import UserError

SAVED_EVERY = 30.0
"""Seconds after which a check that is interrupted keeps what it has found so far."""


class Facts(NamedTuple):
    """What was found in one file. With a `problem`, in words, the file can't be used and the other facts say nothing."""

    kind: str
    """How it was looked at: "picture", "header" or "mask"."""
    file: str
    """Its name below the folder that is checked."""
    size: int
    """Bytes."""
    changed: int
    """Time of change in nanoseconds since 1970."""
    height: int = 0
    width: int = 0
    foreground_ratio: float = 0.0
    """Of a mask."""
    colour: bool = False
    """Whether a mask is stored with colour channels."""
    sha256: str = ""
    problem: str = ""


COLUMNS = dict(Facts.__annotations__)


class KnownFiles:
    """Facts of earlier checks, kept in the Parquet table `file`; with None they last as long as the object.

    `rules` stands for how files are looked at (limits, code): facts that were found under others are forgotten.
    """

    def __init__(self, file: Path | None = None, rules: str = ""):
        self.rules = hashlib.sha256(rules.encode()).hexdigest()
        self.file = file.with_name(f"{file.stem}-{self.rules[:16]}.parquet") if file else None
        self.facts: dict[tuple[str, str], Facts] = {}
        self.unsaved, self.saved_at = 0, time.monotonic()
        if self.file and self.file.is_file():
            try:
                columns = tables.read(self.file, list(COLUMNS)).to_dict("list").values()
            except UserError:
                return  # a table that can't be read is as good as none: all is checked again
            self.facts = {(facts.kind, facts.file): facts for facts in map(Facts._make, zip(*columns))}

    def find(self, root: Path, kind: str, file: str) -> Facts | None:
        """What is known of the file root / `file` as it now is; None where it has to be looked at."""
        facts = self.facts.get((kind, file))
        if facts is None:
            return None
        try:
            now = (root / file).stat()
        except OSError:
            return None
        return facts if (facts.size, facts.changed) == (now.st_size, now.st_mtime_ns) else None

    def add(self, facts: Facts) -> None:
        self.facts[facts.kind, facts.file] = facts
        self.unsaved += 1
        if time.monotonic() - self.saved_at > SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Write the table, and remove those of other rules."""
        if self.file and self.unsaved:
            rows = (facts._asdict() for _, facts in sorted(self.facts.items()))
            tables.write(self.file, tables.frame(rows, COLUMNS))
            for other in self.file.parent.glob(f"{self.file.stem.rpartition('-')[0]}-*.parquet"):
                if other != self.file:
                    other.unlink(missing_ok=True)
        self.unsaved, self.saved_at = 0, time.monotonic()
