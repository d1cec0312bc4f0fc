"""Where PyTorch lacks tracing, a private operator or the compiler's internals: one line, and the
same tokens."""

import importlib
from pkgutil import resolve_name
from types import FunctionType

import pytest
import torch
from helpers import random_model, random_prompts
from torch import nn

from minislm.config import PRESETS, SampleConfig
from minislm.fast import compiled, fallback, linear
from minislm.fast.engine import PreparedModel
from minislm.fast.linear import PRECISIONS, prepack
from minislm.fast.sampler import FastSampler
from minislm.fast.traced import can_trace
from minislm.sampler import Sampler

FAMILIES = {
    "llama": dict(n_layer=1),
    "gpt2": PRESETS["gpt2"] | dict(n_layer=2),
    "gpt-neo": PRESETS["gpt-neo"] | dict(windows=(0, 7)),
}
SETTINGS = [
    dict(temperature=0.0),
    dict(temperature=1.0, top_k=50),
    dict(temperature=1.0, top_p=0.8, min_p=0.02),
    dict(temperature=1.0, repetition_penalty=1.3, logprobs=True),
]
PROMPTS = random_prompts((1, 40, 3, 59, 17, 4, 9, 30, 2, 21))
GREEDY = dict(max_new_tokens=12, temperature=0.0, stop=False)
ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
MKL = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL")


def forget() -> None:
    for function in (linear._traceable, fallback._log_once, can_trace):
        function.cache_clear()


@pytest.fixture(autouse=True)
def tried_again():
    """What an earlier test found is not known in a test, nor the other way round."""
    forget()
    yield
    forget()


def refuse(*arguments, **more):
    raise RuntimeError("not supported\nin this version of Python")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_without_tracing(family, tokenizer, monkeypatch, capfd):
    monkeypatch.setattr(torch.jit, "trace", refuse)
    model = random_model(seed=3, vocab_size=tokenizer.vocab_size, **FAMILIES[family])
    for batch_size in (1, 3, 16):
        plain, fast = (kind(model, tokenizer, batch_size) for kind in (Sampler, FastSampler))
        for settings in SETTINGS:
            options = SampleConfig(max_new_tokens=12, **settings)
            expected = plain.continuations(PROMPTS, options, range(10))
            found = fast.continuations(PROMPTS, options, range(10))
            assert [new.ids for new in found] == [new.ids for new in expected]
            for one, other in zip(found, expected):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        with monkeypatch.context() as patch:  # threads would wait for each other's Python
            patch.setattr(torch, "get_num_threads", lambda: 2)
            assert fast._workers(16, SampleConfig()) == 0
        assert fast._prepared
        for prepared in fast._prepared.values():
            assert not prepared.traced and not isinstance(prepared.model.head, nn.Linear)
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot run traced steps; plain ones instead: " in line


@pytest.mark.parametrize("missing", ["trace", "script", "freeze", "optimized_execution"])
def test_tracing_may_be_missing(missing, monkeypatch, capfd):
    model = random_model()
    expected = Sampler(model).generate_ids(PROMPTS, **GREEDY)
    monkeypatch.delattr(torch.jit, missing)
    assert FastSampler(model).generate_ids(PROMPTS, **GREEDY) == expected
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot run traced steps" in line and missing in line


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_written_where_nothing_is_missing(precision, monkeypatch, recwarn, capfd):
    """No warning either, of what is deprecated."""
    monkeypatch.setattr(linear, "_INT8_FROM", 1)
    sampler = FastSampler(random_model(), batch_size=5, precision=precision)
    sampler.generate_ids(PROMPTS, **GREEDY)
    assert all(prepared.traced for prepared in sampler._prepared.values())
    assert not capfd.readouterr().err and not recwarn.list


@ONEDNN
@pytest.mark.parametrize("precision", PRECISIONS)
def test_prepacked_layers_give_the_same_without_tracing(precision, monkeypatch):
    monkeypatch.setattr(linear, "_INT8_FROM", 1)
    model, found = random_model(), []
    for _ in ("traced", "in Python"):
        sampler = FastSampler(model, batch_size=5, precision=precision)
        found.append(sampler.generate_ids(PROMPTS, **GREEDY))
        monkeypatch.setattr(torch.jit, "trace", refuse)
        forget()
    assert found[0] == found[1]


class Without:
    """A namespace of operators that lacks one of them."""

    def __init__(self, namespace, missing):
        self.namespace, self.missing = namespace, missing

    def __getattr__(self, name):
        if name == self.missing:
            raise AttributeError(f"there is no {name}")
        return getattr(self.namespace, name)


@pytest.fixture(params=[True, False], ids=["traced", "untraced"])
def without(request, monkeypatch):
    """Removes an operator."""
    if not request.param:
        monkeypatch.setattr(torch.jit, "trace", refuse)
        assert not can_trace()

    def remove(name):
        for function in (linear._linear, linear._int8_linear):  # TorchScript knows the old ones
            copy = FunctionType(function.__code__, function.__globals__, function.__name__)
            copy.__annotations__ = function.__annotations__
            monkeypatch.setattr(linear, function.__name__, copy)
        namespace, operator = name.split(".")
        lacking = Without(getattr(torch.ops, namespace), operator)
        monkeypatch.setattr(torch.ops, namespace, lacking)

    return remove


@ONEDNN
@pytest.mark.parametrize(
    "operator, kind, precisions",
    [
        ("mkldnn._reorder_linear_weight", linear.PrepackedLinear, ("float32", "bfloat16")),
        ("mkldnn._linear_pointwise", linear.PrepackedLinear, ("float32", "bfloat16")),
        ("onednn.qlinear_prepack", linear.Int8Linear, ("int8",)),
        ("onednn.qlinear_pointwise", linear.Int8Linear, ("int8",)),
    ],
)
def test_a_layer_without_its_operator_is_plain(
    without, operator, kind, precisions, monkeypatch, capfd
):
    monkeypatch.setattr(linear, "_INT8_FROM", 1)
    model = random_model(qkv_bias=True)
    for precision in PRECISIONS:
        assert type(prepack(model, precision, 5).head) is not nn.Linear
    forget()
    capfd.readouterr()
    without(operator)
    tokens = torch.tensor([prompt[:1] * 20 for prompt in PROMPTS[:5]])
    expected = model(tokens)
    for precision in PRECISIONS:
        prepacked = prepack(model, precision, 5)
        assert (type(prepacked.head) is nn.Linear) == (precision in precisions)
        difference = prepacked(tokens).float() - expected
        assert difference.norm() < (1e-4 if precision == "float32" else 0.06) * expected.norm()
        assert prepacked.n_parameters() == model.n_parameters()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "traced" not in line]
    assert f"cannot run {kind.__name__}; nn.Linear instead: " in line
    plain = Sampler(model, batch_size=5).generate_ids(PROMPTS, **GREEDY)
    assert FastSampler(model, batch_size=5).generate_ids(PROMPTS, **GREEDY) == plain


@MKL
@pytest.mark.parametrize("operator", ["mkl._mkl_reorder_linear_weight", "mkl._mkl_linear"])
def test_compiled_steps_without_the_operators_of_mkl_have_plain_layers(
    without, operator, monkeypatch, capfd
):
    monkeypatch.setattr(linear, "_times_as_slow", lambda *anything: 1.0)
    without(operator)
    prepared = PreparedModel(random_model(), 20, "float32", compiled=True)
    assert type(prepared.for_compiled.head) is nn.Linear
    assert "cannot run MKLLinear; nn.Linear instead: " in capfd.readouterr().err


@ONEDNN
def test_steps_in_int8_are_not_compiled_where_single_steps_would_have_other_results(without):
    without("onednn.qlinear_pointwise")
    prepared = PreparedModel(random_model(), 2, "int8", compiled=True)
    assert prepared.for_compiled is None and type(prepared.model.head) is not linear.Int8Linear


@pytest.mark.parametrize("name", compiled._INTERNALS)
def test_steps_are_not_compiled_without_the_internals_of_the_compiler(name, monkeypatch, capfd):
    module, attribute = name.split(":")
    holder, _, last = attribute.rpartition(".")
    owner = resolve_name(f"{module}:{holder}") if holder else importlib.import_module(module)
    # The compiler's options are an object: its methods are those of a class.
    owner = next((each for each in type(owner).__mro__ if last in vars(each)), owner)
    monkeypatch.delattr(owner, last)
    model, options = random_model(n_layer=1), dict(batch_size=2, precision="int8")
    sampler = FastSampler(model, compiled=True, **options)
    found = sampler.generate_ids(PROMPTS, **GREEDY)
    assert all(each.for_compiled is None for each in sampler._prepared.values())
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot run compiled steps; traced ones instead: " in line
    assert found == FastSampler(model, **options).generate_ids(PROMPTS, **GREEDY)


def test_other_precisions_do_not_need_the_setting_for_int8(monkeypatch):
    from torch._inductor import config

    monkeypatch.delattr(config.cpp, "march")
    assert compiled.can_compile("float32") and not compiled.can_compile("int8")
