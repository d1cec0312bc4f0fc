"""Decode steps compiled ahead of time for a CPU: several steps become a few loops of machine code
that all threads share. It has no weights in it, so it serves every model of the same shape."""

import hashlib
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import torch
from torch import Tensor
from torch.nn import functional as F

from minislm.fast.fallback import tried
from minislm.fast.kv_cache import FastKVCache
from minislm.fast.traced import Step, Steps
from minislm.model import Transformer
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import atomic_write
from minislm.sampling import TokenSampler

_BLOCKS = 2  # blocks compiled together; more are optimized less
_SETTINGS = {
    "aot_inductor.package_constants_in_so": False,
    "cpp.enable_floating_point_contract_flag": "fast",  # a product and its addition in one
    "cpp.use_decompose_tanh": True,  # of a sum of exponentials: half the time of the library's
    "cpp.min_chunk_size": 1024,  # numbers per thread; a shorter loop is not worth a second thread
    "memory_planning": True,  # one allocation per call, not seventy
}
# A flag of PyTorch keeps GCC from using products of bytes; this is the one setting that follows it.
_FIND_BYTES = {"cpp.march": "native -ftree-loop-vectorize"}
_INTERNALS = (
    "torch._inductor.config:cpp.march",  # for int8 alone
    "torch._inductor:aoti_compile_and_package", "torch._inductor:aoti_load_package",
    "torch._inductor.config:get_config_copy", "torch._inductor.cpp_builder:is_clang",
    "torch._inductor.exc:InvalidCxxCompiler", "torch:_C._aoti.AOTIModelPackageLoader.boxed_run",
)  # fmt: skip


def can_compile(precision: str) -> bool:
    """Whether this version of PyTorch has the internals that compiled steps need."""
    names = _INTERNALS if precision == "int8" else _INTERNALS[1:]
    return bool(tried("compiled steps", "traced ones", lambda: [*map(resolve_name, names)]))


@torch.no_grad()
def compile_steps(rows: int, model: Transformer, sample: TokenSampler) -> Callable[..., Tensor]:
    """`Steps` of up to `rows` rows with a model made for them, compiled; same inputs, same output,
    for any multiple of the steps compiled together. The cache must have `rows` rows; those without
    a token are overwritten, so they must be free. UserError: there is no C++ compiler."""
    count = max(1, _BLOCKS // model.config.n_layer)
    steps = Steps(Step(model, sample)).eval()
    length, like = min(model.config.context, 96), model.embedding.weight
    # It will be given parts of a longer cache.
    cache = FastKVCache.empty(model.config, rows, length, like=like).view(slice(rows), length // 2)
    tokens_B, pos_B = torch.zeros(2, rows, dtype=torch.int64)
    example = (tokens_B, pos_B, cache.k_LBKSD, cache.v_LBKSD, torch.zeros(rows, count))
    any_length = {3: torch.export.Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        shapes = (None, None, any_length, any_length, None)
        program = torch.export.export(steps, example, dynamic_shapes=shapes)
        for name, tensor in program.state_dict.items():
            if tensor.is_mkldnn:  # a library's own layout, which the compiler cannot read
                program.state_dict[name] = torch.empty(tensor.shape)
        run = _load(program, rows)
    weights = dict(steps.named_parameters(remove_duplicate=False))
    weights |= dict(steps.named_buffers(remove_duplicate=False))
    own = {name: weights[name].detach() for name in run.get_constant_fqns()}
    run.load_constants(own, check_full_update=True, user_managed=True)

    def compiled(
        tokens_B: Tensor, pos_B: Tensor, k_LBKSD: Tensor, v_LBKSD: Tensor, u_Bn: Tensor
    ) -> Tensor:
        assert own  # the code reads these tensors, so they must live as long as it does
        B = len(tokens_B)
        if B < rows:
            tokens_B, pos_B = F.pad(tokens_B, (0, rows - B)), F.pad(pos_B, (0, rows - B))
            u_Bn = F.pad(u_Bn, (0, 0, 0, rows - B))
        tokens = []
        for u_Bm in u_Bn.split(count, dim=1):
            pos_B = pos_B + count if tokens else pos_B
            inputs = [tokens_B, pos_B, k_LBKSD, v_LBKSD, u_Bm.contiguous()]
            tokens += run.loader.boxed_run(inputs)  # `run(...)` checks each of them for 20 us
            tokens_B = tokens[-1][:, -1].contiguous()
        return torch.cat(tokens, dim=1)[:B]

    return compiled


def _load(program: torch.export.ExportedProgram, rows: int):
    """The program's machine code, from the disk or compiled now; a damaged file is replaced."""
    from torch._inductor import config, cpp_builder

    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minislm")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # its files are executed
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise UserError(f"--compile cannot store its steps: {error}; set XDG_CACHE_HOME") from error
    path = cache / f"steps-{_fingerprint(program)}.pt2"
    if path.is_file():
        try:
            return torch._inductor.aoti_load_package(str(path))
        except RuntimeError:
            path.unlink(missing_ok=True)
    begin, make = time.perf_counter(), torch._inductor.aoti_compile_and_package
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/steps.pt2"
        settings = _SETTINGS if cpp_builder.is_clang() else _SETTINGS | _FIND_BYTES
        known = config.get_config_copy()  # of this version of the compiler
        settings = {name: value for name, value in settings.items() if name in known}
        try:
            make(program, package_path=made, inductor_configs=settings)
        except torch._inductor.exc.InvalidCxxCompiler as error:
            raise UserError("--compile needs a C++ compiler: install g++ or clang++") from error
        atomic_write(path, Path(made).read_bytes())
    seconds = time.perf_counter() - begin
    log(f"steps of {rows} rows compiled in {seconds:.0f} s, stored in {path.parent}")
    return torch._inductor.aoti_load_package(str(path))


def _fingerprint(program: torch.export.ExportedProgram) -> str:
    """What the machine code depends on: operations, shapes, PyTorch, threads and processor."""
    flags = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        known = re.search(r"(?m)^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text())
        flags = known.group(2) if known else flags
    operations = re.sub(r"#.*", "", str(program))  # without the places in the source code
    versions = (torch.__version__, torch.get_num_threads(), platform.machine(), flags)
    parts = repr((operations, _SETTINGS, _FIND_BYTES, versions))
    return hashlib.sha256(parts.encode()).hexdigest()[:20]
