import tempfile

import pytest


@pytest.fixture
def short(monkeypatch):
    """A temporary folder of a short name, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield folder
