"""The library. Importing it mends compiled Python files that a full disk cut short: they are compiled anew.

CPython 3.11 gives a `.pyc` file its name also when only a part of it could be written. Such a file makes every later import
fail, also when there is space again. What is imported after this package is safe from that.
"""

import importlib.machinery
import importlib.util
import os


class _Mending:
    """`SourceFileLoader.get_code`, tried again without the compiled file where that can't be read."""

    def __init__(self, original):
        self.original = original

    def __call__(self, loader, fullname: str):
        try:
            return self.original(loader, fullname)
        except (EOFError, ValueError, TypeError):  # what `marshal.loads` raises for a part of its data
            compiled = importlib.util.cache_from_source(loader.get_filename(fullname))
            if not os.path.isfile(compiled):
                raise
            os.remove(compiled)
            return self.original(loader, fullname)


def mend_on_import() -> None:
    """From now on a compiled file that can't be read is removed and its module compiled from source."""
    loader = importlib.machinery.SourceFileLoader
    if not isinstance(getattr(loader.get_code, "mending", None), _Mending):
        mending = _Mending(loader.get_code)

        def get_code(self, fullname):
            return mending(self, fullname)

        get_code.mending = mending  # type: ignore[attr-defined]  # a mark that it was done
        loader.get_code = get_code  # type: ignore[method-assign]  # which is what mends


mend_on_import()
