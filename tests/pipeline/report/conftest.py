import pytest

from tests.pipeline.report import project


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project with two sub-datasets and a trained network for each task; tests don't write into it."""
    return project.build(tmp_path_factory.mktemp("finished"))
