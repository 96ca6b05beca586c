import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Networks this small lose more to the hand-over between threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
