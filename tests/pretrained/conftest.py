import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """These models are so small that threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
