"""Limits of the machine, matrix products and memory, and the roofline (Williams et al. 2009)."""

from typing import Any

import torch
from torch import nn

from minislm.fast.linear import PrepackedLinear, or_plain
from minislm.model import Transformer
from minislm.runtime.device import best_seconds, device_name
from minislm.runtime.errors import log


def measure_machine(device: torch.device, threads: int) -> dict[str, Any]:
    """The machine's entries of --json: its name, threads and limits; logs the limits."""
    limits = _gpu_limits(device) if device.type == "cuda" else _cpu_limits(threads)
    log(f"limits of the machine, {threads} thread(s): {limits['gflops_float32']:.0f} GFLOP/s in "
        f"float32, {limits['gflops_bfloat16']:.0f} in bfloat16; {limits['memory_gb_s']:.0f} GB/s "
        f"from memory, {limits['cache_gb_s']:.0f} GB/s from the caches")  # fmt: skip
    return {"device": device_name(device), "threads": threads, "limits": limits}


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
    limits, before = {}, torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            layer = or_plain(PrepackedLinear, nn.Linear(1024, 1024, False, dtype=dtype), 512)
            x = torch.ones(512, 1024, dtype=dtype)
            seconds = best_seconds(lambda layer=layer, x=x: layer(x))
            limits[f"gflops_{name}"] = 2 * 512 * 1024 * 1024 / seconds / 1e9
        # 256 MB are beyond every cache; 2 MB are as much as the weights of a small model
        for name, count, repeats in (("memory", 64 << 20, 5), ("cache", 512 << 10, 50)):
            seconds = best_seconds(torch.ones(count).sum, repeats)
            limits[f"{name}_gb_s"] = 4 * count / seconds / 1e9
    torch.set_num_threads(before)
    return limits


def sampling_roofline(
    model: Transformer, dtype: str, batch: int, attended: float, limits: dict[str, float]
) -> float:
    """New tokens per second that matrix products (each weight, once per row) and memory (weights,
    keys and values of each row: `attended` tokens on average) allow: the lower of the two."""
    config = model.config
    weights = sum(weight.numel() for weight in model.blocks.parameters())
    weights += config.vocab_size * config.width
    cached = 2 * config.n_layer * config.kv_heads * config.head_width * attended
    queries = 2 * config.n_layer * config.n_head * config.head_width * attended
    operations = 2 * batch * (weights + queries)
    size = {"float32": 4, "int8": 1}.get(dtype, 2)
    in_bytes = weights * size + batch * cached * max(size, 2)
    rate = limits["gflops_float32" if dtype == "float32" else "gflops_bfloat16"]
    rate *= 2 if dtype == "int8" else 1
    bandwidth = limits["cache_gb_s" if in_bytes < 30e6 else "memory_gb_s"]
    return batch / max(operations / rate / 1e9, in_bytes / bandwidth / 1e9)
