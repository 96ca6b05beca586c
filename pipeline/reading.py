"""Text and JSON files of other people's, read so that what can't be read is one line that names the file."""

import json
import stat
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


def text(path: str | Path, missing: str = "no such file") -> str:
    """The content of a UTF-8 text file, a byte order mark left out.

    Raises UserError, with `missing` where there is no such file. Whatever isn't a regular file is refused before it is
    opened: reading a pipe would wait for ever.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path}: a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, not a file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None


def as_json(path: str | Path, missing: str = "no such file") -> Any:
    """The content of a JSON file. Raises UserError as `text` does, and for what isn't JSON."""
    content = text(path, missing)
    try:
        return json.loads(content)
    except RecursionError:
        raise UserError(f"{path}: not JSON that can be read (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({' '.join(str(error).split())})") from None


def lines(path: str | Path) -> list[str]:
    """The lines of a text file without those that are blank, stripped. Raises UserError as `text` does."""
    return [line.strip() for line in text(path).splitlines() if line.strip()]
