"""What a decoder does, as modules of tensors alone, and recordings of them that run without Python.

What a step costs beyond its arithmetic decides the speed of a small model; and while one recording
runs, other threads can run theirs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minislm.kv_cache import KVCache
from minislm.model import Transformer

Choose = Callable[[Tensor, Tensor], Tensor]  # logits [B, V], uniforms [B] -> tokens [B]


class Step(nn.Module):
    """A decode step: the last tokens [B], where the next ones go [B], the cache's tensors and
    uniform numbers [B] -> the new tokens [B].

    It writes into the cache and reads all its slots up to its own position: the cache should be
    hardly longer than what is needed.
    """

    def __init__(self, model: Transformer, choose: Choose):
        super().__init__()
        self.model, self.choose = model, choose

    def forward(
        self, tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_B: Tensor
    ) -> Tensor:
        cache, slots = KVCache.of(k_LBKSD, v_LBKSD), k_LBKSD.shape[3]
        logits_BV = self.model(tokens_B[:, None], cache, pos_B[:, None], slots)[:, 0]
        return self.choose(logits_BV, u_B)


class Steps(nn.Module):
    """As many steps as there are columns of uniform numbers [B, n] -> the new tokens [B, n].

    Args:
        step: a `Step`, as it is or recorded or compiled.
    """

    def __init__(self, step: nn.Module):
        super().__init__()
        self.step = step

    def forward(
        self, tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_Bn: Tensor
    ) -> Tensor:
        chosen: list[Tensor] = []
        for n in range(u_Bn.shape[1]):
            tokens_B = self.step(tokens_B, pos_B + n, k_LBKSD, v_LBKSD, u_Bn[:, n])
            chosen.append(tokens_B)
        return torch.stack(chosen, dim=1)


class Reading(nn.Module):
    """Prompts from their beginning: tokens [B, T], filled up on the right, where the last one of
    each stands [B], and the tensors of a cache of B rows and T slots, which are filled -> the
    logits after each prompt [B, V]."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(
        self, tokens_BT: Tensor, last_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor
    ) -> Tensor:
        B, T = tokens_BT.shape
        pos_BT = torch.arange(T, device=tokens_BT.device).expand(B, T)
        features_BTC = self.model.features(tokens_BT, KVCache.of(k_LBKSD, v_LBKSD), pos_BT, T)
        last_BC = features_BTC[torch.arange(B, device=last_B.device), last_B]
        return self.model.head(last_BC)  # at the last token of each row alone


class Recording:
    """What a module of tensors alone does, recorded: same inputs, same output.

    Args:
        example: its inputs; others may have other sizes.
        within: makes, of what was recorded, the module that is run.
    """

    def __init__(
        self,
        module: nn.Module,
        *example: Tensor,
        within: Callable[[nn.Module], nn.Module] = lambda recorded: recorded,
    ):
        with warnings.catch_warnings(), torch.inference_mode():
            # Deprecated in favour of torch.compile, which takes half a minute where this takes
            # 0.1 s and does not run beside other threads.
            warnings.simplefilter("ignore")
            recorded = torch.jit.trace(module.eval(), example, check_trace=False)
            self._run = torch.jit.freeze(torch.jit.script(within(recorded).eval()))

    def __call__(self, *inputs: Tensor) -> Tensor:
        # Else the first two runs are watched for 0.2 s, which makes no later one faster.
        with torch.jit.optimized_execution(False):
            return self._run(*inputs)


def record_steps(step: Step) -> Recording:
    """`Steps` of it, of any number, for any number of rows and slots."""
    tokens_B, pos_B = torch.zeros(2, 2, dtype=torch.int64)
    cache = _small_cache(step.model)
    return Recording(step, tokens_B, pos_B, *cache, torch.zeros(2), within=Steps)


def record_reading(reading: Reading) -> Recording:
    """The reading of prompts, of any number and length that no window of the model cuts."""
    cache = _small_cache(reading.model)
    tokens_BT = torch.zeros(2, cache[0].shape[3], dtype=torch.int64)
    return Recording(reading, tokens_BT, torch.zeros(2, dtype=torch.int64), *cache)


def _small_cache(model: Transformer) -> tuple[Tensor, Tensor]:
    cache = KVCache(model.config, 2, min(model.config.context, 2), model.embedding.weight)
    return cache.k_LBKSD, cache.v_LBKSD
