"""Every method, found by its file, in the form of its test vector."""

import functools

import pytest

import models
from tests.models import vector

load = functools.cache(vector.load)
"""Each is built once for all files of tests."""


@pytest.fixture(scope="module", params=models.names())
def case(request) -> vector.Case:
    return load(request.param)


@pytest.fixture(scope="module", params=vector.trained_names())
def trained(request) -> vector.Case:
    """Those that have something to train."""
    return load(request.param)
