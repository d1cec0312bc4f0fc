"""train.py --benchmark: the loops do the same work, and the table shows what was measured."""

import json

import pytest
import torch
from helpers import TINY

from minislm.bench import training
from minislm.bench.isolate import Measurement
from minislm.bench.training import Case, Loop, flops_per_token, table
from minislm.config import ModelConfig, TrainConfig


def test_the_operations_of_a_token_by_hand():
    model = ModelConfig(
        n_layer=2, width=64, n_head=4, n_kv_head=2, mlp="gelu", mlp_width=256, vocab_size=1000,
        context=32, position="learned",
    )  # fmt: skip
    matrices = 2 * (64 * (64 + 2 * 32) + 64 * 64 + 2 * 64 * 256) + 1000 * 64
    scores_and_values = 2 * 2 * 64 * 16
    assert flops_per_token(model) == 6 * (matrices + scores_and_values)


def test_all_loops_learn_the_same():
    model = ModelConfig(n_layer=1, width=32, n_head=4, n_kv_head=4, vocab_size=200, context=32)
    train = TrainConfig(batch_tokens=256, optimizer="adamw")
    losses = []
    for kind in ("minislm", "plain"):
        loop = Loop(kind, model, train, "cpu", "float32", torch.get_num_threads())
        losses.append((loop(1), loop(5)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][1] < losses[0][0] - 0.05


def test_the_table_gives_mfu_and_ratios_and_what_failed():
    def row(loop, dtype, **figures):
        return Measurement(Case(loop, dtype), **figures)

    rows = [row("minislm", "bfloat16", first=[0.1], rates=[100.0, 900.0, 300.0], memory_mb=50.0),
            row("plain", "float32", first=[0.2], rates=[100.0], memory_mb=60.0),
            row("plain compiled", "bfloat16", failure="RuntimeError: no compiler")]  # fmt: skip
    limits = {"gflops_bfloat16": 6.0, "gflops_float32": 2.0}
    lines = table(rows, 1e7, limits).splitlines()
    assert "300" in lines[1] and "50%" in lines[1] and lines[2].endswith("3.00x")
    assert "50%" in lines[2] and "no compiler" in lines[3]
    assert lines[2].split()[-3:] == ["0.2", "s", "3.00x"] and lines[2].split()[-4] == "60"


def test_a_rate_is_the_tokens_of_all_steps_by_seconds(monkeypatch):
    requests = []

    class Process:
        def __init__(self, make, kind, *arguments):
            self.kind = kind

        def measure(self, steps):
            requests.append((self.kind, steps))
            return 0.25 * steps, 70.0

        def close(self):
            requests.append((self.kind, "closed"))

    monkeypatch.setattr(training, "IsolatedProcess", Process)
    monkeypatch.setattr(
        training, "LOOPS", (("minislm", None), ("plain", "float32"), ("plain", None))
    )
    monkeypatch.setattr(training, "ROUNDS", 2)
    train = TrainConfig(batch_tokens=200)
    rows = training.measure(ModelConfig(context=64), train, 1, torch.device("cpu"), "float32")
    assert [row.case for row in rows] == [("minislm", "float32"), ("plain", "float32")]
    for row in rows:
        assert row.first == [0.25] and row.rates == [3 * 64 / 0.25] * 2  # 3 rows of 64 fit in 200
    turns = [("minislm", 3), ("plain", 3)] * 3
    closed = [("minislm", "closed"), ("plain", "closed")]
    assert requests == [("minislm", 1), ("plain", 1), *turns, *closed]


def test_a_whole_benchmark(run_script, monkeypatch):
    monkeypatch.setattr(training, "LOOPS", (("minislm", None), ("plain", "float32")))
    monkeypatch.setattr(training, "ROUNDS", 1)
    done = run_script("train.py", "--benchmark", *TINY, "--context", 64, "--json", "b.json")
    assert done.code == 0 and "minislm" in done.out and "GFLOP/s" in done.err, done.err
    result = json.loads(open("b.json").read())
    assert [row["loop"] for row in result["rows"]] == ["minislm", "plain"]
    for row in result["rows"]:
        assert row["tokens_per_s"] > 0 and 50 < row["memory_mb"] < 5_000
        assert row["start"] > 0 and row["rates"] == [row["tokens_per_s"]] and not row["failure"]
    assert result["threads"] == 1 and result["batch_tokens"] == 512 and result["device"]
    assert result["model"]["width"] == 32 and result["flops_per_token"] > 0 and result["limits"]
