"""FastMuon updates as Muon does, in any number of threads and for stacked matrices."""

import pytest
import torch
from helpers import random_model

from minislm.config import TrainConfig
from minislm.fast.optimizer import FastMuon
from minislm.optimizer import Muon, make_optimizers


def after_two_steps(kind, threads, stacked=False):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        model = random_model(seed=3, n_layer=2)
        muon, generator = make_optimizers(model, TrainConfig(), torch.float32, kind)[0], 5
        generator = torch.Generator().manual_seed(5)
        matrices = [weight for group in muon.param_groups for weight in group["params"]]
        old = [weight.detach().clone() for weight in matrices]
        for _ in range(2):
            for weight in matrices:
                weight.grad = torch.randn(weight.shape, generator=generator)
            if stacked:  # as on a GPU, where the matrices of one shape are one stack
                alike = {}
                with torch.no_grad():
                    for each in muon.matrices():
                        alike.setdefault((each[0].shape, *each[3:]), []).append(each)
                    assert len(alike) < len(list(matrices)) + 4
                    for stack in alike.values():
                        muon._update_stack(stack)
            else:
                muon.step()
        assert not any(torch.equal(*pair) for pair in zip(old, matrices))
        return matrices, [muon.state[weight]["row_power"] for weight in matrices]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads, stacked", [(1, False), (2, False), (3, False), (1, True)])
def test_updates_are_those_of_the_plain_muon(threads, stacked):
    wanted = after_two_steps(Muon, 1)
    for ours, theirs in zip(after_two_steps(FastMuon, threads, stacked), wanted):
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
