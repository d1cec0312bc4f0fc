"""Limits of the machine: the rate of its matrix products and its memory bandwidth.

What they allow is the roofline (Williams et al. 2009); a speed is given relative to it.
"""

from __future__ import annotations

import torch

from minislm.model import Transformer
from minislm.runtime.device import best_seconds


def machine_limits(threads: int, device: torch.device) -> dict[str, float]:
    """GFLOP/s of matrix products, and GB/s from memory and from the caches."""
    return _gpu_limits(device) if device.type == "cuda" else _cpu_limits(threads)


def _gpu_limits(device: torch.device) -> dict[str, float]:
    limits, n = {}, 8192
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x = torch.randn(n, n, dtype=dtype, device=device)
        limits[f"gflops_{name}"] = 2 * n**3 / best_seconds(lambda x=x: x @ x) / 1e9
    numbers = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    for name, size in (("memory", 1 << 30), ("cache", 16 << 20)):
        source, copy = numbers[: size // 2], numbers[size // 2 : size]
        seconds = best_seconds(lambda a=copy, b=source: [a.copy_(b) for _ in range(50)]) / 50
        limits[f"{name}_gb_s"] = size / seconds / 1e9
    return limits


def _cpu_limits(threads: int) -> dict[str, float]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    limits = {}
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            x, weight = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
            prepacked = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
            arguments = (x, prepacked, None, "none", [], "")
            seconds = best_seconds(lambda a=arguments: torch.ops.mkldnn._linear_pointwise(*a))
            limits[f"gflops_{name}"] = 2 * 512 * 1024 * 1024 / seconds / 1e9
        numbers = torch.ones(64 << 20)  # 256 MB: beyond every cache
        limits["memory_gb_s"] = numbers.numel() * 4 / best_seconds(lambda: numbers.sum(), 5) / 1e9
        few = torch.ones(512 << 10)  # 2 MB: where the weights of a small model are
        limits["cache_gb_s"] = few.numel() * 4 / best_seconds(lambda: few.sum(), 50) / 1e9
    torch.set_num_threads(before)
    return limits


def describe_limits(limits: dict[str, float]) -> str:
    return (
        f"{limits['gflops_float32']:.0f} GFLOP/s in float32, {limits['gflops_bfloat16']:.0f} in "
        f"bfloat16; {limits['memory_gb_s']:.0f} GB/s from memory, {limits['cache_gb_s']:.0f} GB/s "
        "from the caches"
    )


def sampling_roofline(
    model: Transformer, dtype: str, batch: int, limits: dict[str, float], prompt: int,
    new_tokens: int,
) -> float:  # fmt: skip
    """New tokens/s that products and memory allow: the slower of the two decides.

    Every step multiplies each weight once per row, and reads every weight and, on average, half of
    the keys and values that the rows will have.
    """
    config = model.config
    weights = sum(weight.numel() for weight in model.blocks.parameters())
    weights += config.vocab_size * config.width
    attended = prompt + new_tokens / 2  # tokens a query attends to, on average
    cached = 2 * config.n_layer * config.kv_heads * config.head_width * attended
    queries = 2 * config.n_layer * config.n_head * config.head_width * attended
    operations = 2 * batch * (weights + queries)
    size = {"float32": 4, "int8": 1}.get(dtype, 2)
    in_bytes = weights * size + batch * cached * max(size, 2)
    rate = limits["gflops_float32" if dtype == "float32" else "gflops_bfloat16"]
    rate *= 2 if dtype == "int8" else 1
    bandwidth = limits["cache_gb_s" if in_bytes < 30e6 else "memory_gb_s"]
    return batch / max(operations / rate / 1e9, in_bytes / bandwidth / 1e9)
