"""Damaged and malicious model files: refused in one line that names file and tensor, never run."""

import json
import os
import pickle
import struct

import pytest
import torch
from helpers import random_model
from pretrained.models import LLAMA3_ROPE, refused
from safetensors.torch import load_file, save_file

from minislm.config import PRESETS
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError

FIRST_NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A sound model folder of the Llama family."""
    save(tmp_path / "model", random_model(vocab_size=400, n_layer=2), tokenizer)
    return tmp_path / "model"


def change_config(folder, remove: str | None = None, **values) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    config.pop(remove, None)
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_bin(folder) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


# --- config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values,words",
    [
        (dict(model_type="mamba"), ["mamba", "unknown architecture"]),
        (dict(model_type=["llama"]), ["unknown architecture"]),
        (dict(hidden_act="relu"), ["hidden_act", "relu"]),
        (dict(hidden_size="64"), ["hidden_size", "'64'"]),
        (dict(hidden_size=64.5), ["hidden_size", "64.5"]),
        (dict(num_hidden_layers=True), ["num_hidden_layers"]),
        (dict(num_hidden_layers=0), ["num_hidden_layers", "from 1 to 1024"]),
        (dict(num_hidden_layers=10**9), ["num_hidden_layers", "from 1 to 1024"]),
        (dict(num_attention_heads=-4), ["num_attention_heads"]),
        (dict(num_key_value_heads=3), ["key/value heads"]),
        (dict(rms_norm_eps=float("nan")), ["rms_norm_eps"]),
        (dict(rms_norm_eps=-1e-5), ["rms_norm_eps"]),
        (dict(rope_theta=0.5), ["rope_theta"]),
        (dict(head_dim=15), ["even head width"]),
        (dict(attention_dropout=1.0), ["dropout"]),
        (dict(vocab_size=0), ["vocab_size"]),
        (dict(max_position_embeddings=10**9), ["max_position_embeddings"]),
        (dict(max_position_embeddings=10**400), ["max_position_embeddings"]),
        (dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}), ["yarn", "linear"]),
        (dict(rope_scaling={"type": "dynamic", "factor": 2.0}), ["dynamic"]),
        (dict(rope_scaling={"rope_type": "linear"}), ["factor is missing"]),
        (dict(rope_scaling={"rope_type": "linear", "factor": 0}), ["factor is 0"]),
        (dict(rope_scaling=LLAMA3_ROPE | {"high_freq_factor": 1.0}), ["high_freq_factor"]),
        (dict(rope_scaling={"rope_type": ["linear"]}), ["linear"]),
        (dict(rope_scaling="linear"), ["rope_scaling"]),
        (dict(rope_parameters={"partial_rotary_factor": 0.5}), ["partial_rotary_factor"]),
        (dict(quantization_config={"bits": 4}), ["quantized"]),
        (dict(tie_word_embeddings="yes"), ["tie_word_embeddings"]),
    ],
)
def test_a_config_that_describes_another_model(values, words, folder):
    change_config(folder, **values)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize("key", ["model_type", "hidden_size", "vocab_size", "intermediate_size"])
def test_a_config_without_a_key(key, folder):
    change_config(folder, remove=key)
    refused(folder, "config.json", key)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff\xfe", "[" * 100_000])
def test_a_config_that_is_no_json_object(text, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder, "config.json")


@pytest.mark.parametrize(
    "preset,values,words",
    [
        ("gpt2", dict(activation_function="gelu"), ["activation_function", "'gelu'"]),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), ["scale_attn_by_inverse_layer_idx"]),
        ("gpt-neo", dict(activation_function="relu"), ["activation_function", "relu"]),
        ("gpt-neo", dict(attention_types=[[["global"], 5]]), ["attention_types"]),
        ("gpt-neo", dict(attention_types=[[["sliding"], 2]]), ["attention_types"]),
        ("gpt-neo", dict(attention_types=[[["global"], 10**12]]), ["attention_types"]),
        ("gpt-neo", dict(attention_types=7), ["attention_types"]),
        ("gpt-neo", dict(window_size=0), ["window_size"]),
    ],
)
def test_other_families_too(preset, values, words, tmp_path, tokenizer):
    windows = (0, 9) if preset == "gpt-neo" else (0,)
    options = PRESETS[preset] | dict(windows=windows, n_layer=2)
    save(tmp_path, random_model(vocab_size=400, **options), tokenizer)
    change_config(tmp_path, **values)
    refused(tmp_path, "config.json", *words)


# --- Tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_bin", [False, True])
def test_a_missing_an_extra_and_a_wrongly_shaped_tensor(to_bin, folder):
    def write(change) -> None:
        change_tensors(folder, change)
        if to_bin:
            as_bin(folder)

    sound = load_file(folder / "model.safetensors")
    file = "pytorch_model.bin" if to_bin else "model.safetensors"
    write(lambda t: t.pop(FIRST_NORM))
    refused(folder, file, FIRST_NORM, "missing")
    for change, words in [
        (lambda t: t.update(surprise=torch.zeros(2)), ["surprise", "unexpected"]),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(2)}), ["layers.2"]),
        (lambda t: t.update({FIRST_NORM: torch.zeros(65)}), [FIRST_NORM, "[65]", "[64]"]),
        (lambda t: t.update({FIRST_NORM: torch.zeros(64, 1)}), [FIRST_NORM]),
        (lambda t: t.update({FIRST_NORM: torch.zeros(64).int()}), [FIRST_NORM, "int32"]),
        (lambda t: t.update({"lm_head.weight": torch.zeros(400, 64)}), ["lm_head.weight", "tied"]),
    ]:
        save_file(dict(sound), folder / "model.safetensors")
        write(change)
        refused(folder, file, *words)


def test_a_config_with_other_numbers_than_the_file_names_the_tensor(folder):
    change_config(folder, num_hidden_layers=3)
    refused(folder, "model.safetensors", "model.layers.2.input_layernorm.weight", "missing")
    change_config(folder, num_hidden_layers=1)
    refused(folder, "model.safetensors", "model.layers.1.", "unexpected")
    change_config(folder, num_hidden_layers=2, tie_word_embeddings=False)
    refused(folder, "model.safetensors", "lm_head.weight", "missing")


def test_a_wrong_config_takes_no_memory(folder):
    for width in (10**9, 10**10):
        change_config(folder, hidden_size=width, remove="head_dim")
        refused(folder, "model.embed_tokens.weight", "[400, 64]", f"[400, {width}]")
    change_config(folder, hidden_size=64, intermediate_size=10**7)
    refused(folder, "model.layers.0.mlp.gate_proj.weight", "[10000000, 64]")
    change_config(folder, intermediate_size=10**9)
    refused(folder, "intermediate_size", "from 0 to")


def test_a_tied_head_may_be_stored_where_it_is_equal(folder):
    sound = load(folder)[0]
    same = sound.embedding.weight.detach().clone()
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": same}))
    assert load(folder)[0].n_parameters() == sound.n_parameters()


def test_nan_loads_with_a_warning(folder, capsys):
    def corrupt(tensors):
        tensors[FIRST_NORM][3] = torch.nan

    change_tensors(folder, corrupt)
    model, _ = load(folder)
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and warning.count("\n") == 1
    assert "model.safetensors" in warning and FIRST_NORM in warning
    assert model.blocks[0].attention_norm.weight.isnan().sum() == 1


def test_a_vocabulary_larger_than_the_embedding(tmp_path, tokenizer):
    save(tmp_path, random_model(vocab_size=tokenizer.vocab_size - 1), tokenizer)
    refused(tmp_path, "model.safetensors", "model.embed_tokens.weight", str(tokenizer.vocab_size))


def test_a_missing_tokenizer_and_missing_weights(folder):
    (folder / "tokenizer.json").rename(folder / "aside")
    refused(folder, "no tokenizer", str(folder))
    (folder / "aside").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights", str(folder))


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_bin", [False, True])
@pytest.mark.parametrize(
    "damage,word",
    [
        (lambda data: data[:-1], ""),
        (lambda data: data[:-5000], ""),
        (lambda data: data[: len(data) // 2], ""),
        (lambda data: data[:7], ""),
        (lambda data: b"", "empty"),
        (lambda data: data + b"\0", ""),
        (lambda data: data + b"more" * 1000, ""),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (lambda data: b"<!DOCTYPE html><html>not found</html>", "web page"),
        (lambda data: bytes(1000), ""),
        (lambda data: b"{}" * 100, ""),
    ],
)
def test_a_cut_overlong_or_foreign_file(damage, word, to_bin, folder):
    if to_bin:
        as_bin(folder)
    file = folder / ("pytorch_model.bin" if to_bin else "model.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    refused(folder, str(file), word)


def change_header(file, change) -> None:
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    "wrong",
    [
        {"data_offsets": [0, 10**12]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [-4, 60]},
        {"shape": [10**9]},
        {"shape": [2**63, 2**63]},
        {"shape": [-64]},
        {"dtype": "F64"},
        {"dtype": "PICKLE"},
    ],
)
def test_a_wrong_safetensors_header(wrong, folder):
    file = folder / "model.safetensors"
    change_header(file, lambda header: header[FIRST_NORM].update(wrong))
    message = refused(folder, str(file))
    if "data_offsets" not in wrong and wrong.get("dtype") != "PICKLE":
        assert FIRST_NORM in message


def test_shards(folder):
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    names = list(load_file(folder / "one.safetensors"))
    index.write_text(json.dumps({"weight_map": {name: "one.safetensors" for name in names}}))
    assert load(folder)[0].config.width == 64
    index.write_text(json.dumps({"weight_map": {names[0]: "../one.safetensors"}}))
    refused(folder, str(index), "outside")
    index.write_text(json.dumps({"weight_map": {names[0]: "two.safetensors"}}))
    refused(folder, str(folder / "two.safetensors"), "missing")
    (folder / "two.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    both = {names[0]: "one.safetensors", names[1]: "two.safetensors"}
    index.write_text(json.dumps({"weight_map": both}))
    refused(folder, "two.safetensors", "two files")
    for text in ("{}", "[]", "{", '{"weight_map": {"a": 3}}', '{"weight_map": [1]}'):
        index.write_text(text)
        refused(folder, str(index))


class Touch:
    """Unpickling it makes a file: the proof that code was run."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(zipped, folder, tmp_path):
    marker, file = tmp_path / "marker", folder / "pytorch_model.bin"
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    malicious = tensors | {"code": Touch(marker)}
    torch.save(malicious, file, _use_new_zipfile_serialization=zipped)
    refused(folder, str(file), "code")
    assert not marker.exists()
    file.write_bytes(pickle.dumps(Touch(marker)))
    refused(folder, str(file))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()  # had it been run, we would have seen it


def test_a_bin_that_holds_no_tensors_or_fewer_numbers(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    spread = torch.zeros(1).expand(tensors[FIRST_NORM].shape)  # 64 numbers in the memory of one
    for contents in ([1], {"a": 3}, {3: torch.zeros(1)}, {"a": torch.eye(2).to_sparse()}):
        torch.save(contents, file)
        refused(folder, str(file))
    torch.save(tensors | {FIRST_NORM: spread}, file)
    refused(folder, str(file), FIRST_NORM)


@pytest.mark.parametrize("source", ["nowhere", "./a/b", "/no/such/folder", "a/b/c", ""])
def test_a_source_that_is_not_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(source or tmp_path, error=UserError)


def test_a_weight_file_instead_of_its_folder(folder):
    refused(folder / "model.safetensors", "folder")
    refused(folder / "config.json", "folder")


def test_an_unknown_dtype(folder):
    with pytest.raises(UserError, match="bfloat16"):
        load(folder, dtype="int8")
