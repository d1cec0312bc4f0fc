"""Decode steps of one row, compiled ahead of time for a CPU: from token to token without a stop.

A step of one row is some sixty operations of a few microseconds each, and one thread makes most of
them. torch's compiler turns several steps into one loop of machine code that all threads share.
The code does not hold the weights: it is kept on disk, and serves every model of the same shape.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.cache import KVCache
from minislm.errors import UserError, say
from minislm.files import atomic_write
from minislm.model import Transformer
from minislm.packed import Choose, Steps, lay_out, rounded

_TILE = 16  # outputs: as many float32 as a register of AVX-512 holds
_TOGETHER = 4  # inputs


class TiledLinear(nn.Module):
    """x W^T + b for one row x. W is stored in tiles [O / 16, I / 4, 4, 16], filled up with zeros.

    A tile is read from its first number to its last and makes 16 outputs. Four products are added
    up among themselves before they join the sum: it would otherwise wait for its last addition at
    every next one. In int8 only the weights are rounded: what is saved is the time to read them.
    """

    def __init__(self, linear: nn.Linear, int8: bool = False):
        super().__init__()
        weight, scale = rounded(linear.weight) if int8 else (linear.weight.detach(), None)
        self.out, inputs = weight.shape
        self.filling = -inputs % _TOGETHER
        weight = F.pad(weight, (0, self.filling, 0, -self.out % _TILE))
        tiles = weight.view(len(weight) // _TILE, _TILE, -1, _TOGETHER).permute(0, 2, 3, 1)
        self.register_buffer("tiles", tiles.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        tiles = self.tiles.float()  # while it is read: nothing of this size is ever written
        inputs = F.pad(x.float().flatten(), (0, self.filling)).view(-1, _TOGETHER)
        a, b, c, d = (inputs[:, i, None] * tiles[:, :, i] for i in range(_TOGETHER))
        y = ((a + b) + (c + d)).sum(1).flatten()[: self.out]
        y = y if self.scale is None else y * self.scale
        y = y if self.bias is None else y + self.bias
        return y.to(x.dtype).view(x.shape[:-1] + (self.out,))


def tile(model: Transformer, precision: str) -> Transformer:
    """The model for `compile_steps`; the given one stays as it is. `precision`: as for `pack`."""
    return lay_out(model, precision, lambda linear: TiledLinear(linear, precision == "int8"))


@torch.no_grad()
def compile_steps(model: Transformer, count: int, choose: Choose) -> Callable[..., Tensor]:
    """`Steps` of one row with a tiled model, compiled; same inputs, same output.

    Raises:
        UserError: there is no C++ compiler.
    """
    steps = Steps(model, count, choose).eval()
    slots = torch.export.Dim("slots", min=2, max=model.config.context)
    cache = KVCache(model.config, 1, min(model.config.context, 64), model.embedding.weight)
    token_1, pos_1 = (torch.zeros(1, dtype=torch.int64) for _ in range(2))
    example = (token_1, pos_1, cache.k_LBKSD, cache.v_LBKSD, torch.zeros(1, count))
    shapes = {"k_LBKSD": {3: slots}, "v_LBKSD": {3: slots}}
    fixed = dict.fromkeys(("tokens_B", "pos_B", "u_Bn"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(steps, example, dynamic_shapes=fixed | shapes)
        run = _load(program)
    weights = dict(steps.named_parameters(remove_duplicate=False))
    weights |= dict(steps.named_buffers(remove_duplicate=False))
    own = {name: weights[name].detach() for name in run.get_constant_fqns()}
    run.load_constants(own, check_full_update=True, user_managed=True)

    def compiled(*inputs: Tensor) -> Tensor:
        assert own  # the code reads these tensors, so they must live as long as it does
        return run(*inputs)

    return compiled


def _load(program: torch.export.ExportedProgram):
    """The program's machine code, from the disk or made now; a damaged file is made anew."""
    path = _folder() / f"steps-{_fingerprint(program)}.pt2"
    if path.is_file():
        try:
            return torch._inductor.aoti_load_package(str(path))
        except RuntimeError:
            path.unlink(missing_ok=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "steps.pt2")
        settings = {"aot_inductor.package_constants_in_so": False}
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=made, inductor_configs=settings
            )
        except torch._inductor.exc.InvalidCxxCompiler as error:
            raise UserError(
                "--compile needs a C++ compiler; install g++ or clang++, or leave it out"
            ) from error
        atomic_write(path, Path(made).read_bytes())
    say(f"one row: steps compiled in {time.perf_counter() - begin:.0f} s, kept in {path.parent}")
    return torch._inductor.aoti_load_package(str(path))


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "minislm"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is run: nobody else's
    return folder


def _fingerprint(program: torch.export.ExportedProgram) -> str:
    """What the machine code depends on: operations and shapes, torch, threads and processor."""
    flags = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        known = re.search(r"(?m)^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text())
        flags = known.group(2) if known else flags
    told = re.sub(r"#.*", "", str(program))  # without the places of the source code
    parts = (told, torch.__version__, torch.get_num_threads(), platform.machine(), flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
