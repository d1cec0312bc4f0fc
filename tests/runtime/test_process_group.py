"""A process group of one. (tests/cli has two processes, started by torchrun.)"""

import threading
import time

import pytest
import torch

from minislm.runtime import process_group
from minislm.runtime.errors import UserError, log
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


@pytest.mark.parametrize(
    "variables",
    [
        dict(RANK="3"), dict(RANK=""), dict(RANK="one"), dict(RANK="-1"), dict(WORLD_SIZE=""),
        dict(WORLD_SIZE="0"), dict(WORLD_SIZE="2"), dict(RANK="2", WORLD_SIZE="2"),
        dict(RANK="1", WORLD_SIZE="2"), dict(LOCAL_RANK=""), dict(LOCAL_RANK="4"),
        dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="x"),
        dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="99999"),
    ],
    ids=str,
)  # fmt: skip
def test_variables_that_torchrun_does_not_set_are_reported(monkeypatch, capsys, variables):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("RANK")  # whatever the class sets is undone
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="unset RANK and WORLD_SIZE, or use torchrun") as raised:
        ProcessGroup()
    log(str(raised.value))  # by this process, whatever its number is
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not torch.distributed.is_initialized()


def test_a_restart_does_not_read_the_addresses_of_ended_processes(monkeypatch):
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 0)]))
    for restart in range(3):
        found = {}

        def start(rank, found=found):
            found[rank] = process_group._new_keys(rank, 3)
            found[rank].set(f"address/{rank}", str(rank))

        threads = [threading.Thread(target=start, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.05)  # the first one reads what was left
        for thread in threads:
            thread.join(20)
        assert not found[0].check(["restart"])
        found[0].set("restart", str(restart))
        for own in found.values():
            assert [own.get(f"address/{rank}") for rank in range(3)] == [b"0", b"1", b"2"]
            assert own.get("restart") == str(restart).encode()
        store.set("sent/1", "of an ended process")
