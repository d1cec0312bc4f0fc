"""The benchmark: what it measures is there, what it compares is comparable."""

import json

import pytest
from helpers import random_model
from tokenizers import Tokenizer as Backend
from tokenizers import models

from minislm.bench import sampling as benchmark
from minislm.bench.config import BenchmarkConfig
from minislm.bench.engines import ENGINES, installed
from minislm.bench.isolate import Apart
from minislm.bench.llama_cpp import LlamaCpp, write_gguf
from minislm.bench.sampling import Row, roofline, table
from minislm.cli.config import MachineConfig
from minislm.pretrained.load import save_model
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler
from minislm.tokenizer import Tokenizer

LIMITS = {
    "gflops_float32": 100.0, "gflops_bfloat16": 200.0, "memory_gb_s": 10.0, "cache_gb_s": 50.0,
}  # fmt: skip


def row(engine, dtype, rate, mode="greedy", batch=8):
    return Row(engine, dtype, mode, batch, rates=[rate] * 3, first=[0.002] * 3, memory_mb=100)


def test_float32_is_held_against_float32_and_less_against_a_peers_best():
    rows = [
        row("minislm", "float32", 300.0),
        row("minislm", "int8", 900.0),
        row("ctranslate2", "float32", 200.0),
        row("ctranslate2", "int8", 600.0),
        row("ctranslate2", "int8", 9999.0, mode="top-k"),  # another mode does not count
    ]
    lines = table(rows, random_model(), LIMITS, 200).splitlines()
    assert lines[1].endswith("1.50x") and lines[2].endswith("1.50x")
    assert "x" not in lines[3].split()[-1]


def test_a_failure_is_told_in_its_row():
    failed = Row("transformers", "bfloat16", "greedy", 1, failure="ValueError: no such model")
    text = table([row("minislm", "float32", 1.0, batch=1), failed], random_model(), LIMITS, 200)
    assert "ValueError: no such model" in text
    assert failed.as_json()["failure"] and "tokens_per_s" not in failed.as_json()


def test_the_roofline_is_the_slower_of_products_and_memory():
    model = random_model()
    weights = sum(w.numel() for w in model.blocks.parameters()) + model.head.weight.numel()
    one = roofline(model, "float32", 1, LIMITS, 200)
    assert one < 50e9 / (weights * 4)  # reading the weights alone takes longer
    many = roofline(model, "float32", 4096, LIMITS, 200)
    assert many < 100e9 / (2 * weights) and many > one
    assert roofline(model, "bfloat16", 1, LIMITS, 200) > one


@pytest.mark.skipif(not installed("ctranslate2"), reason="ctranslate2 is not installed")
def test_a_whole_benchmark(monkeypatch, tmp_path, capsys):
    small = benchmark.SHAPES["one-block"] | {"width": 32, "n_head": 2, "vocab_size": 500}
    monkeypatch.setitem(benchmark.SHAPES, "one-block", small)
    config = BenchmarkConfig(
        batch_sizes=(2,), peers=True, rounds=1, new_tokens=20, precisions="float32",
        modes="greedy", chart=str(tmp_path / "chart.png"),
    )  # fmt: skip
    benchmark.run(None, config, MachineConfig(threads=1, json=str(tmp_path / "b.json")))
    result = json.loads((tmp_path / "b.json").read_text())
    assert {each["engine"] for each in result["rows"]} == {
        engine for engine in ENGINES if installed(engine) and engine != "ct2, 1 thread"
    }
    assert result["device"] and not any("failure" in each for each in result["rows"])
    for each in result["rows"]:
        assert each["tokens_per_s"] > 0 and each["first_token_ms"] > 0, each
        assert 20 < each["memory_mb"] < 5_000 and each["batch"] == 2
    assert set(result["limits"]) == set(LIMITS)
    assert "minislm" in capsys.readouterr().out
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not installed("llama.cpp"), reason="llama-cpp-python, or gguf, is missing")
def test_llama_cpp_is_given_the_same_weights(tmp_path):
    gpt2 = dict(norm="layernorm", position="learned", mlp="gelu", n_kv_head=0, width=64, n_head=2)
    gpt2 |= dict(qkv_bias=True, out_bias=True, mlp_bias=True, vocab_size=500, context=64)
    model, words = random_model(**gpt2), {f"t{k}": k for k in range(499)} | {"<|endoftext|>": 499}
    tokenizer = Tokenizer(Backend(models.WordLevel(words, unk_token="t0")))
    save_model(tmp_path / "gpt2", model, tokenizer)
    prompts = [[5, 6, 7], [8, 9, 10]]
    settings = dict(max_new_tokens=20, temperature=0.0, stop=False)
    wanted = Sampler(model).generate_ids(prompts, **settings)
    engine = LlamaCpp(tmp_path / "gpt2", "float32", 1, "cpu")
    assert engine(prompts, 20, 0) == wanted and engine(prompts[:1], 5, 0) == [wanted[0][:5]]
    assert len({tuple(engine(prompts, 20, 50)[1]) for _ in range(2)} | {tuple(wanted[1])}) > 1
    with pytest.raises(ValueError, match="GPT-2's shape"):
        write_gguf(random_model(), tmp_path / "other.gguf", "float32")


def test_engines_are_asked_where_they_run_and_for_what_is_wanted(monkeypatch):
    def wanted(device, threads=2, **asked):
        config = BenchmarkConfig(precisions="float32,int8", **asked)
        return list(benchmark._wanted(config, threads, device))

    monkeypatch.setattr(benchmark, "installed", lambda engine: True)
    everywhere = [("minislm", "float32"), ("transformers", "float32")]
    assert wanted("cuda", peers=True) == everywhere
    both = [(engine, each) for engine in ENGINES for each in ("float32", "int8")]
    both.remove(("transformers", "int8"))
    assert wanted("cpu", peers=True) == both
    alone = [(engine, each) for engine, each in both if engine != "ct2, 1 thread"]
    assert wanted("cpu", threads=1, peers=True) == alone  # the other one is that already
    assert wanted("cpu") == [("minislm", "float32"), ("minislm", "int8")]


def test_an_engine_that_cannot_open_the_model_says_why(tmp_path):
    worker = Apart(ENGINES["minislm"][2], tmp_path / "nothing", "float32", 1, "cpu")
    assert "UserError" in worker.failure
    worker.close()


def test_a_wrong_request_is_refused(tmp_path):
    with pytest.raises(UserError, match="--batch-sizes"):
        BenchmarkConfig(batch_sizes=(0,))
    with pytest.raises(UserError, match="--precisions"):
        BenchmarkConfig(precisions="int4")
    with pytest.raises(UserError, match="folder"):
        benchmark.run(str(tmp_path / "no"), BenchmarkConfig(), MachineConfig())
