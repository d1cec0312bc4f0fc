"""train.py --benchmark: the loops do the same work, and the table says what was measured."""

import json

import pytest
import torch
from helpers import TINY

from minislm.bench import training as pace
from minislm.bench.training import Loop, Pace, flops_per_token, table
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
    train = TrainConfig(batch_tokens=256, dtype="float32", optimizer="adamw", device="cpu")
    losses = []
    for kind in ("minislm", "plain"):
        loop = Loop(kind, model, train, torch.get_num_threads())
        losses.append((loop(1), loop(5)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][1] < losses[0][0] - 0.05


def test_the_table_gives_shares_and_ratios_and_what_failed():
    paces = [Pace("minislm", "bfloat16", 0.1, [100.0, 900.0, 300.0], 50.0),
             Pace("plain", "float32", 0.2, [100.0], 60.0),
             Pace("plain compiled", "bfloat16", failure="RuntimeError: no compiler")]  # fmt: skip
    limits = {"gflops_bfloat16": 6.0, "gflops_float32": 2.0}
    lines = table(paces, 1e7, limits).splitlines()
    assert "300" in lines[1] and "50%" in lines[1] and lines[2].endswith("3.00x")
    assert "50%" in lines[2] and "no compiler" in lines[3]


def test_a_whole_benchmark(run_script, monkeypatch):
    monkeypatch.setattr(pace, "LOOPS", (("minislm", None), ("plain", "float32")))
    monkeypatch.setattr(pace, "ROUNDS", 1)
    done = run_script("train.py", "--benchmark", *TINY, "--context", 64, "--json", "pace.json")
    assert done.code == 0 and "minislm" in done.out and "GFLOP/s" in done.err, done.err
    rows = json.loads(open("pace.json").read())["rows"]
    assert [row["loop"] for row in rows] == ["minislm", "plain"]
    assert all(row["tokens_per_s"] > 0 and 50 < row["memory_mb"] < 5_000 for row in rows)
