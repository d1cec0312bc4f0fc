"""sample.py --benchmark: every engine is measured, and the ratios compare like with like."""

import json
from pathlib import Path

import pytest
from helpers import random_model
from tokenizers import Tokenizer as Backend
from tokenizers import models

from minislm.bench import sampling
from minislm.bench.config import SHAPES, BenchmarkConfig
from minislm.bench.engines import ENGINES, ONE_THREAD, installed
from minislm.bench.isolate import Measurement
from minislm.bench.llama_cpp import LlamaCpp, write_gguf
from minislm.bench.machine import sampling_roofline
from minislm.bench.sampling import Case, benchmark, entry, table
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler
from minislm.tokenizer import Tokenizer

LIMITS = {
    "gflops_float32": 100.0, "gflops_bfloat16": 200.0, "memory_gb_s": 10.0, "cache_gb_s": 50.0,
}  # fmt: skip


def row(engine, dtype, rate, mode="greedy", batch=8):
    case = Case(engine, dtype, mode, batch)
    return Measurement(case, rates=[rate] * 3, first=[0.002] * 3, memory_mb=100)


def test_float32_is_compared_with_float32_and_less_with_the_best_of_an_engine():
    rows = [
        row("minislm", "float32", 300.0),
        row("minislm", "int8", 900.0),
        row("ctranslate2", "float32", 200.0),
        row("ctranslate2", "int8", 600.0),
        row("ctranslate2", "int8", 9999.0, mode="top-k"),  # another mode does not count
        row("ctranslate2", "int8", 9999.0, batch=64),  # nor another batch size
    ]
    lines = table(rows, random_model(), LIMITS, 200).splitlines()
    assert lines[1].endswith("1.50x") and lines[2].endswith("1.50x")
    assert "x" not in lines[3].split()[-1]


def test_the_table_and_the_entry_of_json_have_the_same_figures():
    ours = row("minislm", "float32", 234_567.0)
    ours.rates = [1000.0, 900_000.0, 234_567.0]
    model = random_model()
    limit = sampling_roofline(model, "float32", 8, 16 + 200 / 2, LIMITS)
    assert 0.3 < 234_567 / limit < 1
    heading, line = table([ours], model, LIMITS, 200).splitlines()
    assert heading.split() == "engine dtype mode batch tokens/s roofline first ms MB".split()
    figures = ["234,567", f"{234_567 / limit:.0%}", "2.0", "100"]
    assert line.split() == ["minislm", "float32", "greedy", "8", *figures]
    assert entry(ours) == {
        "engine": "minislm", "dtype": "float32", "mode": "greedy", "batch": 8,
        "tokens_per_s": 234_567.0, "first_token_ms": 2.0, "memory_mb": 100, "runs": ours.rates,
    }  # fmt: skip


def test_a_failure_is_shown_in_its_row():
    case = Case("transformers", "bfloat16", "greedy", 1)
    failed = Measurement(case, failure="ValueError: no such model")
    text = table([row("minislm", "float32", 1.0, batch=1), failed], random_model(), LIMITS, 200)
    assert "ValueError: no such model" in text
    assert entry(failed)["failure"] and "tokens_per_s" not in entry(failed)


def test_the_roofline_is_the_slower_of_products_and_memory():
    model = random_model()
    weights = sum(w.numel() for w in model.blocks.parameters()) + model.head.weight.numel()
    one = sampling_roofline(model, "float32", 1, 116, LIMITS)
    assert one < 50e9 / (weights * 4)  # reading the weights alone takes longer
    many = sampling_roofline(model, "float32", 4096, 116, LIMITS)
    assert many < 100e9 / (2 * weights) and many > one
    assert sampling_roofline(model, "bfloat16", 1, 116, LIMITS) > one
    # products of int8 are twice as fast as those of bfloat16; few keys: only products count
    half, byte = (
        sampling_roofline(model, dtype, 4096, 1, LIMITS) for dtype in ("bfloat16", "int8")
    )
    assert byte == pytest.approx(2 * half)
    assert half == pytest.approx(200e9 / (2 * weights), rel=0.01)


@pytest.mark.skipif(not installed("ctranslate2"), reason="ctranslate2 is not installed")
def test_a_whole_benchmark(monkeypatch, tmp_path, capsys):
    small = SHAPES["one-block"] | {"width": 32, "n_head": 2, "vocab_size": 500}
    monkeypatch.setitem(sampling.SHAPES, "one-block", small)
    config = BenchmarkConfig(
        batch_sizes=(2,), peers=True, rounds=1, max_new_tokens=20, precisions="float32",
        modes="greedy", out=str(tmp_path / "chart.png"),
    )  # fmt: skip
    benchmark(None, config, threads=1, json=str(tmp_path / "b.json"))
    result = json.loads((tmp_path / "b.json").read_text())
    assert {each["engine"] for each in result["rows"]} == {
        engine for engine in ENGINES if installed(engine) and engine != ONE_THREAD
    }
    assert result["device"] and not any("failure" in each for each in result["rows"])
    assert result["threads"] == 1 and result["prompt_tokens"] == 16 and result["new_tokens"] == 20
    assert result["model"] == "one-block" and result["parameters"] > 0
    for each in result["rows"]:
        assert each["tokens_per_s"] > 0 and each["first_token_ms"] > 0, each
        assert 20 < each["memory_mb"] < 5_000 and each["batch"] == 2
        assert each["runs"] == [each["tokens_per_s"]]
    assert set(result["limits"]) == set(LIMITS)
    assert "minislm" in capsys.readouterr().out
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def save_gpt2(folder: Path):
    """A small model of GPT-2's shape, in a folder that every engine reads."""
    gpt2 = dict(norm="layernorm", position="learned", mlp="gelu", n_kv_head=0, width=64, n_head=2)
    gpt2 |= dict(qkv_bias=True, out_bias=True, mlp_bias=True, vocab_size=500, context=64)
    model, words = random_model(**gpt2), {f"t{k}": k for k in range(499)} | {"<|endoftext|>": 499}
    save(folder, model, Tokenizer(Backend(models.WordLevel(words, unk_token="t0"))))
    return model


@pytest.mark.parametrize("name", ENGINES)
def test_engines_return_as_many_tokens_as_they_are_given_as_count(name, tmp_path):
    if not installed(name):
        pytest.skip(f"{ENGINES[name].packages}: not installed")
    model, prompts = save_gpt2(tmp_path), [[5, 6, 7], [8, 9, 10]]
    wanted = Sampler(model).generate_ids(prompts, max_new_tokens=9, temperature=0.0, stop=False)
    engine = ENGINES[name](tmp_path, "float32", 1, "cpu", False)

    def new_tokens(count, top_k):
        result = engine(prompts, count, top_k)
        if name == "transformers":
            return result[:, 3:].tolist()
        return [each.sequences_ids[0] for each in result] if "2" in name else result

    assert new_tokens(9, 0) == wanted
    sampled = [new_tokens(9, 50) for _ in range(3)]
    assert all(len(tokens) == 9 for each in sampled for tokens in each)
    assert any(each != wanted for each in sampled)


@pytest.mark.skipif(not installed("llama.cpp"), reason="llama-cpp-python, or gguf, is missing")
def test_llama_cpp_is_given_the_same_weights(tmp_path):
    model = save_gpt2(tmp_path / "gpt2")
    prompts = [[5, 6, 7], [8, 9, 10]]
    settings = dict(max_new_tokens=20, temperature=0.0, stop=False)
    wanted = Sampler(model).generate_ids(prompts, **settings)
    engine = LlamaCpp(tmp_path / "gpt2", "float32", 1, "cpu")
    assert engine(prompts, 20, 0) == wanted and engine(prompts[:1], 5, 0) == [wanted[0][:5]]
    assert len({tuple(engine(prompts, 20, 50)[1]) for _ in range(2)} | {tuple(wanted[1])}) > 1
    with pytest.raises(ValueError, match="GPT-2's shape"):
        write_gguf(random_model(), tmp_path / "other.gguf", "float32")


def test_engines_are_measured_where_they_run_and_for_what_is_wanted(monkeypatch):
    def wanted(device, threads=2, **options):
        config = BenchmarkConfig(precisions="float32,int8", **options)
        return list(sampling._engines(config, threads, device))

    monkeypatch.setattr(sampling, "installed", lambda engine: True)
    ours = [("minislm", "float32"), ("plain sampler", "float32")]
    assert wanted("cuda", peers=True) == [*ours, ("transformers", "float32")]
    both = [(engine, each) for engine in ENGINES for each in ("float32", "int8")]
    both.remove(("plain sampler", "int8"))
    both.remove(("transformers", "int8"))
    assert wanted("cpu", peers=True) == both
    alone = [(engine, each) for engine, each in both if engine != ONE_THREAD]
    assert wanted("cpu", threads=1, peers=True) == alone  # the other one is that already
    assert wanted("cpu") == [("minislm", "float32"), ("minislm", "int8"), ours[1]]


def test_each_engine_is_made_once_with_its_threads_and_measured_in_every_case(monkeypatch):
    made, measured = [], []

    class Process:
        failure = None

        def __init__(self, make, *arguments):
            made.append((make, *arguments))
            self.name = made[-1]

        def measure(self, prompts, count, top_k):
            measured.append((self.name, len(prompts), len(prompts[0]), count, top_k))
            return 0.5, 70.0

        def close(self):
            made.append("closed")

    monkeypatch.setattr(sampling, "installed", lambda engine: engine in ("minislm", ONE_THREAD))
    monkeypatch.setattr(sampling, "OURS", ("minislm",))
    monkeypatch.setattr(sampling, "IsolatedProcess", Process)
    config = BenchmarkConfig(peers=True, precisions="float32", batch_sizes=(1, 4), rounds=2)
    rows = sampling._measure(Path("model"), 500, config, 3, "cpu", True)
    engines = [
        (ENGINES["minislm"], Path("model"), "float32", 3, "cpu", True),
        (ENGINES[ONE_THREAD], Path("model"), "float32", 1, "cpu", True),
    ]
    assert made == [*engines, "closed", "closed"]
    names = [(engine, mode) for engine in ("minislm", ONE_THREAD) for mode in ("greedy", "top-k")]
    cases = [(engine, "float32", mode, batch) for batch in (1, 4) for engine, mode in names]
    assert [row.case for row in rows] == cases
    assert [row.rates for row in rows[3:5]] == [[400.0] * 2, [1600.0] * 2]  # 200 new tokens each
    expected = [
        (engine, batch, 16, count, top_k) for batch in (1, 4) for _ in range(3)
        for engine in engines for top_k in (0, 50) for count in (200, 1)
    ]  # fmt: skip
    assert measured == expected


def test_an_engine_that_is_not_installed_is_named_with_its_packages(monkeypatch, capsys):
    monkeypatch.setattr(sampling, "installed", lambda engine: engine != "llama.cpp")
    config = BenchmarkConfig(precisions="float32", peers=True)
    assert "llama.cpp" not in dict(sampling._engines(config, 2, "cpu"))
    assert "pip install llama-cpp-python gguf" in capsys.readouterr().err


def test_a_wrong_request_is_refused(tmp_path):
    with pytest.raises(UserError, match="--batch-sizes"):
        BenchmarkConfig(batch_sizes=(0,))
    with pytest.raises(UserError, match="--precisions"):
        BenchmarkConfig(precisions="int4")
    with pytest.raises(UserError, match="--modes"):
        BenchmarkConfig(modes="greedy,fast")
    with pytest.raises(UserError, match="folder"):
        benchmark(str(tmp_path / "no"), BenchmarkConfig())
