"""Linear layers for decoding: each layout against the plain layer."""

import pytest
import torch
from helpers import random_model
from torch import nn

from minislm.config import PRESETS
from minislm.fast import linear
from minislm.fast.engine import PreparedModel
from minislm.fast.linear import prepack

FAMILIES = {
    "llama": {},
    "gpt2": PRESETS["gpt2"],
    "gpt-neo": PRESETS["gpt-neo"] | {"windows": (0, 7)},
}
SIZES = pytest.mark.parametrize("inputs, out", [(256, 64), (30, 17), (4, 1)])
ROWS = pytest.mark.parametrize("rows, bias", [(1, True), (1, False), (2, True), (9, True)])
MKL = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch is without MKL")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 5])
def test_the_prepacked_model_gives_the_same_logits(family, rows):
    model = random_model(**FAMILIES[family])
    tokens = torch.randint(0, 300, (rows, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(tokens), prepack(model, "float32", rows)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_prepacking_leaves_the_model_unchanged():
    model = random_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for precision in ("int8", "bfloat16", "float32"):
        prepacked = prepack(model, precision, 4)
        assert prepacked.n_parameters() == model.n_parameters()
    PreparedModel(model, 2)
    assert model.embedding.weight.dtype == torch.float32
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("precision, error", [("bfloat16", 0.05), ("int8", 0.06)])
def test_reduced_precision_stays_close(monkeypatch, precision, error):
    monkeypatch.setattr(linear, "_INT8_FROM", 1)
    model = random_model()
    tokens = torch.randint(0, 300, (4, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(tokens), prepack(model, precision, 4)(tokens).float()
    assert (found - expected).norm() < error * expected.norm()
    assert not torch.allclose(found, expected, atol=1e-5)  # it is not float32


def test_a_row_in_int8_does_not_depend_on_its_neighbours(monkeypatch):
    monkeypatch.setattr(linear, "_INT8_FROM", 1)
    model = prepack(random_model(), "int8", 4)
    quiet, loud = torch.full((1, 8), 5), torch.arange(8)[None]
    with torch.inference_mode():
        alone, together = model(quiet), model(torch.cat((quiet, loud)))[:1]
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@SIZES
@ROWS
def test_a_tiled_layer_is_the_layer(inputs, out, rows, bias, dtype):
    layer = nn.Linear(inputs, out, bias=bias, dtype=dtype)
    x = torch.randn(rows, 1, inputs, dtype=dtype)
    got, wanted = linear.TiledLinear(layer, rows)(x), layer(x)
    assert got.dtype == dtype and got.shape == wanted.shape
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_weight_first_layer_is_the_layer(bias):
    layer = nn.Linear(30, 17, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(5, 1, 30, dtype=torch.bfloat16)
    torch.testing.assert_close(linear.WeightFirstLinear(layer)(x), layer(x), atol=0.02, rtol=0.02)


@MKL
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_layer_in_the_layout_of_mkl_is_the_layer(bias):
    layer, x = nn.Linear(30, 17, bias=bias), torch.randn(20, 1, 30)
    ours, wanted = linear.MKLLinear(layer, 20), layer(x)
    assert ours(x).shape == wanted.shape
    ours.weight.zero_()  # the prepacked numbers are read, for so many rows
    torch.testing.assert_close(ours(x), wanted)


@SIZES
@ROWS
@torch.inference_mode()
def test_an_int8_layer_in_loops_is_the_int8_layer_of_the_library(inputs, out, rows, bias):
    layer, x = nn.Linear(inputs, out, bias=bias), 7 * torch.randn(rows, 1, inputs)
    got, wanted = linear.Int8LoopLinear(layer)(x), linear.Int8Linear(layer, rows)(x)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_few_rows_in_int8_have_all_matrices_in_int8_in_both_models():
    model, token = random_model(), torch.tensor([[7]])
    prepared = PreparedModel(model, 1, "int8", compiled=True)
    expected = model(token)
    for each, kind in (
        (prepared.for_compiled, linear.Int8LoopLinear),
        (prepared.model, linear.Int8Linear),
    ):
        kinds = [type(module) for module in each.modules() if hasattr(module, "scale")]
        assert kinds.count(kind) == 4 * len(model.blocks) + 1
        assert each.embedding.weight.dtype == torch.float32
    found = prepared.model(token)
    assert (found - expected).norm() < 0.06 * expected.norm()


def test_slower_compiled_steps_are_not_used(monkeypatch):
    mkl = linear.MKLLinear if torch.backends.mkl.is_available() else nn.Linear

    def compiled(rows, precision, times, own=mkl):
        def slow(one, other, x):
            assert type(one) is own and type(other) is linear.PrepackedLinear
            return times

        monkeypatch.setattr(linear, "_times_as_slow", slow)
        return PreparedModel(random_model(), rows, precision, compiled=True).for_compiled

    assert compiled(64, "int8", 0.1) is None
    assert compiled(64, "float32", 2.0) is None
    assert compiled(64, "bfloat16", 2.0, linear.WeightFirstLinear) is None
    kept = compiled(64, "bfloat16", 1.1, linear.WeightFirstLinear)
    assert type(kept.head) is type(kept.blocks[0].mlp.up) is linear.WeightFirstLinear
    assert type(compiled(64, "float32", 1.1).head) is mkl
    assert compiled(4, "float32", 2.0) is not None  # without the library's products


def test_one_product_is_compared_with_another(monkeypatch):
    monkeypatch.setattr(linear, "best_seconds", lambda work, repeats: work())
    assert linear._times_as_slow(lambda x: 3.0 * x, lambda x: 2.0 * x, 0.1) == pytest.approx(1.5)
