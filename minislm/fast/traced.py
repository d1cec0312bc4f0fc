"""Prefill and decode steps as modules of tensors alone, and traces that run without Python."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from minislm.fast.fallback import tried
from minislm.fast.kv_cache import FastKVCache
from minislm.model import Transformer
from minislm.sampling import TokenSampler


class Step(nn.Module):
    """A decode step: the last tokens [B], their positions [B], the tensors of a cache, all of whose
    positions are read, and uniform numbers [B] -> the next tokens [B]."""

    def __init__(self, model: Transformer, sample: TokenSampler):
        super().__init__()
        self.model, self.sample = model, sample

    def forward(
        self, tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_B: Tensor
    ) -> Tensor:
        cache = FastKVCache(k_LBKSD, v_LBKSD)
        logits_BV = self.model(tokens_B[:, None], cache, pos_B[:, None])[:, 0]
        return self.sample(logits_BV, u_B)


class Steps(nn.Module):
    """A `Step`, or its trace, per column of uniform numbers [B, n] -> the new tokens [B, n]."""

    def __init__(self, step: nn.Module):
        super().__init__()
        self.step = step

    def forward(
        self, tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_Bn: Tensor
    ) -> Tensor:
        tokens: list[Tensor] = []
        for n in range(u_Bn.shape[1]):
            tokens_B = self.step(tokens_B, pos_B + n, k_LBKSD, v_LBKSD, u_Bn[:, n])
            tokens.append(tokens_B)
        return torch.stack(tokens, dim=1)


class Prefill(nn.Module):
    """Prompts from position 0: tokens [B, T], padded on the right, the index of each last one [B],
    and the tensors of a cache of B rows and T positions to fill -> the logits after each [B, V]."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, at_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor) -> Tensor:
        B, T = tokens_BT.shape
        pos_BT = torch.arange(T, device=tokens_BT.device).expand(B, T)
        features_BTC = self.model.features(tokens_BT, FastKVCache(k_LBKSD, v_LBKSD), pos_BT)
        last_BC = features_BTC[torch.arange(B, device=at_B.device), at_B]
        return self.model.head(last_BC)  # at the last token of each row alone


class Trace:
    """What a module of tensors alone computes, traced: same inputs, same output. `example` are its
    inputs, of any sizes; `within` makes, of the trace, the module that is run."""

    def __init__(
        self, module: nn.Module, *example: Tensor,
        within: Callable[[nn.Module], nn.Module] = lambda traced: traced,
    ):  # fmt: skip
        with warnings.catch_warnings(), torch.inference_mode():
            # Deprecated in favour of torch.compile, which takes half a minute where this takes
            # 0.1 s and does not run beside other threads.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module.eval(), example, check_trace=False)
            self._run = torch.jit.freeze(torch.jit.script(within(traced).eval()))

    def __call__(self, *inputs: Tensor) -> Tensor:
        # Else the first two runs are profiled for 0.2 s, which makes no later one faster.
        with torch.jit.optimized_execution(False):
            return self._run(*inputs)


@cache
def can_trace() -> bool:
    """Whether this version of PyTorch can trace a module and run the trace."""
    x = torch.zeros(1)
    return tried("traced steps", "plain ones", lambda: Trace(nn.Identity(), x)(x)) is not None


def trace_steps(step: Step) -> Trace:
    """`Steps` of it, of any number, for any number of rows and positions."""
    tokens_B, pos_B = torch.zeros(2, 2, dtype=torch.int64)
    cache = _small_cache(step.model)
    return Trace(step, tokens_B, pos_B, *cache, torch.zeros(2), within=Steps)


def trace_prefill(prefill: Prefill) -> Trace:
    """`Prefill` of prompts of any number and length that no attention window cuts."""
    cache = _small_cache(prefill.model)
    tokens_BT = torch.zeros(2, cache[0].shape[3], dtype=torch.int64)
    return Trace(prefill, tokens_BT, torch.zeros(2, dtype=torch.int64), *cache)


def _small_cache(model: Transformer) -> tuple[Tensor, Tensor]:
    length = min(model.config.context, 2)
    cache = FastKVCache.empty(model.config, 2, length, like=model.embedding.weight)
    return cache.k_LBKSD, cache.v_LBKSD
