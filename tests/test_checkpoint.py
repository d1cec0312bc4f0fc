"""Run folders: what is written is read back, damage is named, and a reader sees whole files."""

import json

import pytest
import torch
from helpers import random_model, read_metrics

from minislm.checkpoint import (
    load_model,
    load_state,
    save_model,
    save_state,
    write_metrics,
)
from minislm.runtime.errors import CheckpointError, UserError


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_read_back_as_it_was_saved(tmp_path, tokenizer, tied):
    model = random_model(vocab_size=tokenizer.vocab_size, tied=tied, windows=(0, 8))
    save_model(tmp_path / "run", model, tokenizer)
    again, words = load_model(tmp_path / "run")
    assert again.config == model.config and not again.training
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 20))
    assert torch.equal(again(tokens), model(tokens))
    assert (again.head.weight is again.embedding.weight) == tied
    assert words.encode("One day") == tokenizer.encode("One day")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_file_is_named(tmp_path, tokenizer, name, damage):
    save_model(tmp_path, random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:100] if damage == "cut" else b'{"width": 3}')
    with pytest.raises(UserError, match=name):
        load_model(tmp_path)


def test_another_model_type_is_refused(tmp_path, tokenizer):
    save_model(tmp_path, random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="model_type"):
        load_model(tmp_path)


def test_the_last_states_are_kept(tmp_path):
    for step in range(1, 6):
        save_state(tmp_path, {"step": step, "model": {"w": torch.ones(3) * step}}, keep=2)
    assert load_state(tmp_path)["step"] == 5
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["step-00000004.pt", "step-00000005.pt"]
    (tmp_path / "train_state.pt").write_bytes(b"damaged")  # the same bytes under both names
    with pytest.raises(CheckpointError, match="copy the last file of .*states over it"):
        load_state(tmp_path)
    (tmp_path / "train_state.pt").unlink()
    with pytest.raises(CheckpointError, match="no state to resume"):
        load_state(tmp_path)


def test_a_failed_write_leaves_the_last_state(tmp_path, monkeypatch):
    save_state(tmp_path, {"step": 1})

    def full(value, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="PytorchStreamWriter"):
        save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train_state.pt"]


def test_metrics_are_one_json_object_per_line(tmp_path):
    history = [{"step": 1, "valid_loss": 2.0}, {"step": 2, "valid_loss": 1.5}]
    write_metrics(tmp_path, history[:1])
    write_metrics(tmp_path, history)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    assert read_metrics(tmp_path) == history
