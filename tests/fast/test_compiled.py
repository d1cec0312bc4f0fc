"""Compiled steps: the tokens of traced ones, stored on disk; one line where they are impossible."""

import shutil

import pytest
import torch
from helpers import random_model
from torch import nn

from minislm.fast import compiled, linear, topk
from minislm.fast.engine import PreparedModel
from minislm.fast.sampler import FastSampler
from minislm.runtime.errors import UserError

COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(autouse=True)
def stored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "minislm"


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize(
    "rows, precision, blocks, top_k",
    [(3, "float32", 1, 9), (3, "int8", 1, 9), (20, "float32", 2, 0)],
)
def test_compiled_steps_give_the_same_and_serve_every_model_of_the_shape(
    rows, precision, blocks, top_k, stored, monkeypatch, capfd
):
    """Sequences end one after the other, new ones come, and the last few are left to traces."""
    monkeypatch.setattr(linear, "_times_as_slow", lambda *anything: 1.0)
    monkeypatch.setattr(topk, "_MANY", 3)  # numpy's partition in all of them
    monkeypatch.setattr(compiled, "_BLOCKS", blocks)
    prompts = [[1 + k % 7] * (1 + k % 8 * 11) for k in range(3 * rows)]
    for seed in (1, 2):
        model = random_model(seed=seed, n_layer=1, qkv_bias=True, context=90)
        found = []
        for often in (False, True):
            with monkeypatch.context() as patched:
                if not often:  # every step is a traced one; in int8, with the same matrices
                    patched.setattr(PreparedModel, "uses_compiled", lambda *anything: False)
                use = often or precision == "int8"
                sampler = FastSampler(model, batch_size=rows, compiled=use, precision=precision)
                seeds = range(3 * rows)
                found.append(
                    sampler.generate_ids(prompts, seeds=seeds, max_new_tokens=70, top_k=top_k)
                )
        assert found[0] == found[1] and len(set(map(len, found[0]))) == 7
        assert len(list(stored.iterdir())) == 1  # the weights are not in it
    assert capfd.readouterr().err.count("compiled in") == 1


def test_a_damaged_file_is_replaced(monkeypatch, stored):
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    path = stored / f"steps-{compiled._fingerprint(program)}.pt2"
    stored.mkdir()
    path.write_bytes(b"half")

    def load(path):
        if open(path, "rb").read() != b"whole":
            raise RuntimeError("not a package")
        return "loaded"

    def make(program, package_path, **more):
        with open(package_path, "wb") as file:
            file.write(b"whole")

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", make)
    assert compiled._load(program, 2) == "loaded" and path.read_bytes() == b"whole"


def test_impossible_compilation_is_one_line(run_script, monkeypatch, tiny_run):
    def none(*arguments, **more):
        raise torch._inductor.exc.InvalidCxxCompiler()

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", none)
    done = run_script("sample.py", "--model", tiny_run, "--compile", "--prompt", "Once")
    assert done.code == 2 and "C++ compiler" in done.err and "Traceback" not in done.err
    done = run_script("sample.py", "--model", tiny_run, "--compile", "--dtype", "float16")
    assert done.code == 2 and "--compile is for" in done.err
    with pytest.raises(UserError, match="--compile is for"):
        FastSampler(nn.Linear(2, 2), compiled=True)
