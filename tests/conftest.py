"""One thread per test process: small networks run many times slower when the threads of several processes wait for
each other, and results do not depend on it."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as make and every command have it, for trainings of several threads

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# examples are the same in every run, and may take as long as a busy machine needs for them
hypothesis.settings.register_profile("seeded", deadline=None, derandomize=True)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished project with two sub-datasets and a trained network for each task. Tests share it and don't write into it."""
    from tests.pipeline.report import project  # pandas, scipy: what most tests do without

    return project.build(tmp_path_factory.mktemp("finished"))
