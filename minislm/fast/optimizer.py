"""Muon on all cores of a CPU, and on a GPU for all matrices of one shape together."""

from collections.abc import Sequence
from functools import partial

import torch

from minislm.fast.threads import run_threads
from minislm.optimizer import Matrix, Muon, normalized_update


class FastMuon(Muon):
    """`Muon` with the same updates (to the precision of its matrix products)."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        matrices = list(self.matrices())
        if not matrices:
            return
        if matrices[0][0].device.type == "cpu":
            workers = min(torch.get_num_threads(), len(matrices))
            dealt: list[list[Matrix]] = [[] for _ in range(workers)]
            for each in sorted(matrices, key=lambda matrix: -matrix[0].numel()):
                min(dealt, key=lambda own: sum(m[0].numel() for m in own)).append(each)
            run_threads([partial(self.update, own) for own in dealt])
        else:
            alike: dict[tuple, list[Matrix]] = {}
            for each in matrices:
                alike.setdefault((each[0].shape, *each[3:]), []).append(each)
            for stack in alike.values():
                self._update_stack(stack)

    def _update_stack(self, stack: Sequence[Matrix]) -> None:
        """Matrices of one shape, step and rate; a GPU would wait for each small product."""
        weights, momenta, row_powers, (step, *_), (rate, *_) = zip(*stack)
        row_power = torch.stack(row_powers)
        updates = normalized_update(torch.stack(momenta), row_power, step, self.dtype)
        torch._foreach_add_(list(weights), list(updates), alpha=-rate)
        torch._foreach_copy_(list(row_powers), list(row_power))
