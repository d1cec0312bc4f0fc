"""A process group of one. (tests/cli has two processes, started by torchrun.)"""

import pytest
import torch

from minislm.runtime.errors import UserError
from minislm.runtime.process_group import ProcessGroup


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return ProcessGroup()


def test_one_process_has_its_own_results(alone):
    assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    assert alone.all_reduce([1.5, True]) == [1.5, True]
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.arange(3.0)
    alone.all_reduce_gradients([weight, torch.nn.Parameter(torch.ones(2))])
    assert weight.grad.tolist() == [0, 1, 2]
    assert alone.broadcast({"a": 1}) == {"a": 1}
    assert alone.shard("abc") == "abc" and alone.all_gather(lambda: (1, 2)) == [1, 2]
    with pytest.raises(UserError, match="a mistake"):
        alone.all_gather(lambda: (_ for _ in ()).throw(UserError("a mistake")))
    alone.barrier()
    alone.close()
    assert not torch.distributed.is_initialized()


def test_a_shard_is_every_nth_item(alone):
    alone.world_size, shards = 3, []
    for alone.rank in range(3):
        assert alone.is_main == (alone.rank == 0)
        shards.append(alone.shard(range(7)))
    assert list(map(list, shards)) == [[0, 3, 6], [1, 4], [2, 5]]
