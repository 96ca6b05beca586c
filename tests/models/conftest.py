"""Every method, found by its file, in the form of its test vector."""

import pytest

import models
from tests.models import vector


@pytest.fixture(scope="module", params=models.names())
def case(request) -> vector.Case:
    return vector.load(request.param)


@pytest.fixture(scope="module", params=vector.trained_names())
def trained(request) -> vector.Case:
    """Those that have something to train."""
    return vector.load(request.param)
