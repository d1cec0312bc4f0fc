"""Data-parallel processes, started by `torchrun --nproc-per-node N train.py` (or sample.py).
In training gradients are summed, so the weights are those of one process with the same batches. In
sampling every process continues its own prompts."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from minislm.runtime.errors import UserError

_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
_TIMEOUT = timedelta(minutes=10)  # for a process that prepares data, or was suspended


class ProcessGroup:
    """This process, number `rank` of `world_size`. If it is the only one, results are its own."""

    def __init__(self) -> None:
        try:
            self.rank, local = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
            self.world_size = size = int(os.environ.get("WORLD_SIZE", 1))
            if not (0 <= self.rank < size and 0 <= local < size):
                raise ValueError(f"RANK {self.rank}, LOCAL_RANK {local}, WORLD_SIZE {size}")
            if size > 1 and not dist.is_initialized():
                store = _new_keys(self.rank, size)
                dist.init_process_group(_BACKENDS[_device()], timeout=_TIMEOUT, store=store,
                                        rank=self.rank, world_size=size)  # fmt: skip
        except (ValueError, RuntimeError) as error:
            os.environ["RANK"] = "0"  # else only the first process would report it
            raise UserError(f"{error}; unset RANK and WORLD_SIZE, or use torchrun") from error

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor([float(v) for v in values], dtype=torch.float64, device=_device())
        dist.all_reduce(tensor)
        return tensor.tolist()

    def all_reduce_gradients(self, weights: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.world_size == 1:
            return
        grads = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
            grad.copy_(part.view_as(grad))

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.all_reduce([0.0])

    def broadcast(self, value: Any) -> Any:
        """The value of the first process, for all."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, device=torch.device(_device()))
        return values[0]

    def shard(self, items: Sequence) -> Sequence:
        """This process's part of a list: every `world_size`-th item, from its rank on."""
        return items[self.rank :: self.world_size]

    def all_gather(self, work: Callable[[], Sequence]) -> list:
        """The results of every process for its `shard`, in the order of the whole list, for all.
        A UserError in one process is raised in all of them."""
        if self.world_size == 1:
            return list(work())
        try:
            own: Any = list(work())
        except UserError as error:
            own = error
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, own)
        for part in parts:
            if isinstance(part, UserError):
                raise part
        whole = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.world_size] = part
        return whole

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _new_keys(rank: int, size: int) -> dist.Store:
    """The store of torchrun, with a prefix that the processes of this start agree on: a restart has
    the store of the one before, with the addresses of ended processes. So every process but the
    first sends a random name, and the first one replies to it with its own."""
    store, *_ = next(dist.rendezvous("env://", rank, size, timeout=_TIMEOUT))
    name, others = uuid4().hex, range(1, size)
    if rank:
        store.set(f"sent/{rank}", name)
        reply = store.get(f"reply/{name}").decode()
        store.set(f"read/{reply}/{rank}", "")
        return dist.PrefixStore(reply, store)
    for _ in range(60_000):  # ten minutes
        if store.check([f"read/{name}/{other}" for other in others]):
            break
        for other in others:
            store.set(f"reply/{store.get(f'sent/{other}').decode()}", name)
        time.sleep(0.01)
    return dist.PrefixStore(name, store)
