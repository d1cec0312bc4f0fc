"""Compiled steps: the same text as recorded ones, kept on disk, and told when not."""

import shutil

import pytest
import torch
from helpers import random_model
from torch import nn

from minislm.fast import attention, compiled, engine
from minislm.fast import compiled_linear as layouts
from minislm.fast import linear as packed
from minislm.fast import topk as selection
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler

COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "minislm"


SIZES = pytest.mark.parametrize("inputs, out", [(256, 64), (30, 17), (4, 1)])
ROWS = pytest.mark.parametrize("rows, bias", [(1, True), (1, False), (2, True), (9, True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@SIZES
@ROWS
def test_a_tiled_layer_is_the_layer(inputs, out, rows, bias, dtype):
    layer = nn.Linear(inputs, out, bias=bias, dtype=dtype)
    x = torch.randn(rows, 1, inputs, dtype=dtype)
    got, wanted = layouts.TiledLinear(layer, rows)(x), layer(x)
    assert got.dtype == dtype and got.shape == wanted.shape
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_turned_layer_is_the_layer(bias):
    layer = nn.Linear(30, 17, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(5, 1, 30, dtype=torch.bfloat16)
    torch.testing.assert_close(layouts.TurnedLinear(layer)(x), layer(x), atol=0.02, rtol=0.02)


MKL = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch is without MKL")


@MKL
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_layer_in_the_layout_of_mkl_is_the_layer(bias):
    layer, x = nn.Linear(30, 17, bias=bias), torch.randn(20, 1, 30)
    ours, wanted = layouts.MKLLinear(layer, 20), layer(x)
    assert ours(x).shape == wanted.shape
    ours.weight.zero_()  # it is the packed numbers that are read, for so many rows
    torch.testing.assert_close(ours(x), wanted)


@SIZES
@ROWS
@torch.inference_mode()
def test_a_layer_in_bytes_is_the_int8_layer_of_the_library(inputs, out, rows, bias):
    layer, x = nn.Linear(inputs, out, bias=bias), 7 * torch.randn(rows, 1, inputs)
    got, wanted = layouts.ByteLinear(layer)(x), packed.Int8Linear(layer, rows)(x)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_few_rows_in_int8_have_all_matrices_in_bytes_in_both_models():
    model, token = random_model(), torch.tensor([[7]])
    decoder = engine.Decoder(model, 1, "int8", compiled=True)
    expected = model(token)
    for each, kind in ((decoder.shared, layouts.ByteLinear), (decoder.model, packed.Int8Linear)):
        kinds = [type(module) for module in each.modules() if hasattr(module, "scale")]
        assert kinds.count(kind) == 4 * len(model.blocks) + 1
        assert (each(token) - expected).norm() < 0.06 * expected.norm()
        assert each.embedding.weight.dtype == torch.float32


def test_where_compiled_steps_would_be_slower_they_are_recorded(monkeypatch):
    mkl = layouts.MKLLinear if torch.backends.mkl.is_available() else nn.Linear

    def shared(rows, precision, times, own=mkl):
        def slow(linear, other, x):
            assert type(linear) is own and type(other) is packed.PackedLinear
            return times

        monkeypatch.setattr(layouts, "_times_as_slow", slow)
        return engine.Decoder(random_model(), rows, precision, compiled=True).shared

    assert shared(64, "int8", 0.1) is None
    assert shared(64, "float32", 2.0) is None
    assert shared(64, "bfloat16", 2.0, layouts.TurnedLinear) is None
    kept = shared(64, "bfloat16", 1.1, layouts.TurnedLinear)
    assert type(kept.head) is type(kept.blocks[0].mlp.up) is layouts.TurnedLinear
    assert type(shared(64, "float32", 1.1).head) is mkl
    assert shared(4, "float32", 2.0) is not None  # without the library's products
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert type(shared(64, "float32", 1.1, nn.Linear).head) is nn.Linear


def test_one_product_is_compared_with_another(monkeypatch):
    monkeypatch.setattr(layouts, "best_seconds", lambda work, repeats: work())
    assert layouts._times_as_slow(lambda x: 3.0 * x, lambda x: 2.0 * x, 0.1) == pytest.approx(1.5)


@pytest.mark.parametrize("heads, kv_heads, window", [(4, 4, 0), (4, 2, 0), (6, 2, 5)])
@torch.inference_mode()
def test_attention_in_loops_is_attention(heads, kv_heads, window):
    B, S, D = 3, 20, 8
    q = torch.randn(B, 1, heads, D).transpose(1, 2)
    k, v = torch.randn(2, B, kv_heads, 40, D)[:, :, :, :S]
    mask = attention.hide(attention.visible(torch.tensor([[4], [19], [0]]), S, window), q.dtype)
    wanted = attention.attend_alone(q, k, v, mask, 0.3)
    assert wanted.shape == (B, heads, 1, D)
    torch.testing.assert_close(attention.attend_in_loops(q, k, v, mask, 0.3), wanted)
    rough = attention.attend_in_loops(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, 0.3)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), wanted, atol=0.03, rtol=0.03)


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize(
    "rows, precision, blocks", [(3, "float32", 1), (3, "int8", 1), (20, "float32", 2)]
)
def test_compiled_steps_say_the_same_and_are_kept_for_every_model_of_the_shape(
    rows, precision, blocks, cache, monkeypatch, capfd
):
    """Rows end one after the other, new ones come, and the last few are left to recorded steps."""
    monkeypatch.setattr(layouts, "_times_as_slow", lambda *anything: 1.0)
    monkeypatch.setattr(selection, "pays", lambda rows, *anything: rows > 3)
    monkeypatch.setattr(compiled, "_BLOCKS", blocks)
    prompts = [[1 + k % 7] * (1 + k % 8 * 11) for k in range(3 * rows)]
    for seed in (1, 2):
        model = random_model(seed=seed, n_layer=1, qkv_bias=True, context=90)
        told = []
        for often in (False, True):
            with monkeypatch.context() as patched:
                if not often:  # every step is a recorded one; in int8, with the same matrices
                    patched.setattr(engine.Decoder, "compiles", lambda *anything: False)
                each = often or precision == "int8"
                sampler = Sampler(model, batch_size=rows, compiled=each, precision=precision)
                seeds = range(3 * rows)
                told.append(sampler.generate_ids(prompts, seeds=seeds, max_new_tokens=70, top_k=9))
        assert told[0] == told[1] and len(set(map(len, told[0]))) == 7
        assert len(list(cache.iterdir())) == 1  # the weights are not in it
    assert capfd.readouterr().err.count("compiled in") == 1


def test_a_damaged_file_is_made_anew(monkeypatch, cache):
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    path = cache / f"steps-{compiled._fingerprint(program)}.pt2"
    cache.mkdir()
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


def test_what_cannot_be_had_is_one_line(run_script, monkeypatch, tiny_run):
    def none(*arguments, **more):
        raise torch._inductor.exc.InvalidCxxCompiler()

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", none)
    done = run_script("sample.py", "--model", tiny_run, "--compile", "--prompt", "Once")
    assert done.code == 2 and "C++ compiler" in done.err and "Traceback" not in done.err
    done = run_script("sample.py", "--model", tiny_run, "--compile", "--dtype", "float16")
    assert done.code == 2 and "--compile is for" in done.err
    with pytest.raises(UserError, match="--compile is for"):
        Sampler(nn.Linear(2, 2), compiled=True)
