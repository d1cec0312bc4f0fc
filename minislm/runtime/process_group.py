"""Several processes that do one job: who is there, and what they tell one another.

To train, every process reads its own rows of each batch; gradients are added up over all of them,
so the weights stay the same in every process and are those of one process with the same batches.
The processes are started by `torchrun --nproc-per-node N train.py` or by `train.py --processes N`.
To sample, `torchrun --nproc-per-node N sample.py`, every process goes on from its own prompts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from minislm.runtime.errors import UserError

_STORE = "MINISLM_STORE"  # a file through which the processes of --processes find one another
_PATIENCE = timedelta(minutes=10)  # for a process that prepares data, or was suspended


class Team:
    """This process among others: `rank` of `world`; alone, everything is told to itself."""

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1 and not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            store = os.environ.get(_STORE)
            dist.init_process_group(
                backend, init_method=f"file://{store}" if store else "env://", rank=self.rank,
                world_size=self.world, timeout=_PATIENCE,
            )  # fmt: skip

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and tells what happens."""
        return self.rank == 0

    def add_up(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        if self.world == 1:
            return list(values)
        told = [float(value) for value in values]
        tensor = torch.tensor(told, dtype=torch.float64, device=_device())
        dist.all_reduce(tensor)
        return tensor.tolist()

    def add_up_gradients(self, weights: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.world == 1:
            return
        grads = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads])):
            grad.copy_(part.view_as(grad))

    def agree(self, value: Any) -> Any:
        """What the leader says; every process must ask at the same point."""
        if self.world == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, device=_device())
        return told[0]

    def share(self, items: Sequence) -> Sequence:
        """This process's part of a list: every `world`-th item, from its rank on."""
        return items[self.rank :: self.world]

    def collect(self, work: Callable[[], Sequence]) -> list:
        """What every process makes of its share, in the order of the whole list, for all of them.

        Raises:
            UserError: in all of them, if one of them raised it.
        """
        if self.world == 1:
            return list(work())
        try:
            own: Any = list(work())
        except UserError as error:
            own = error
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, own)
        for each in told:
            if isinstance(each, UserError):
                raise each
        whole = [None] * sum(map(len, told))
        for rank, part in enumerate(told):
            whole[rank :: self.world] = part
        return whole

    def leave(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def started() -> bool:
    """Whether this process is one of several already."""
    return "RANK" in os.environ


def start(processes: int, threads: int | None, command: Sequence[str]) -> int:
    """Run a command in so many processes, which share the threads; the exit code of them all.

    Only the first one prints, and another one that ends with an error of its own. Ctrl-C is
    answered by each of them. When one is killed the others are ended too.

    Raises:
        UserError: one of them was killed.
    """
    each = max(1, (threads or torch.get_num_threads()) // processes)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers, errors = [], []
        for rank in range(processes):
            own = {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                   "OMP_NUM_THREADS": str(each), _STORE: os.path.join(folder, "store")}  # fmt: skip
            errors.append(stack.enter_context(tempfile.TemporaryFile()))
            quiet = dict(stdout=subprocess.DEVNULL, stderr=errors[rank]) if rank else {}
            workers.append(subprocess.Popen(command, env=os.environ | own | _LOOPBACK, **quiet))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return _wait(workers, errors)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            signal.signal(signal.SIGINT, before)


# The processes are on one machine and need nobody else's network.
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def _wait(workers: Sequence[subprocess.Popen], errors: Sequence[IO[bytes]]) -> int:
    """The first code that is not 0, or 0 when all are done."""
    while True:
        codes = [worker.poll() for worker in workers]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                raise UserError(
                    f"process {rank} of {len(workers)} was killed ({signal.Signals(-code).name}); "
                    "go on from the last state with --resume"
                )
        wrong = [(rank, code) for rank, code in enumerate(codes) if code]
        if wrong:
            time.sleep(0.5)  # the leader may be about to say why
            leader = workers[0].poll()
            for rank, _ in wrong:
                if rank and leader in (None, 0, 1):  # 1: an error that it had not foreseen
                    errors[rank].seek(0)
                    sys.stderr.write(errors[rank].read().decode(errors="replace"))
            return leader or wrong[0][1]
        if None not in codes:
            return 0
        time.sleep(0.05)
