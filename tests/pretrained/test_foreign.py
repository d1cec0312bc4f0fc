"""What is often given in place of a model, and names that a training program has changed."""

import pytest
import torch
from helpers import random_model
from pretrained.models import refused
from pretrained.test_refusals import FIRST_NORM, as_bin, change_config, change_tensors
from safetensors.torch import load_file

from minislm.pretrained.load import load
from minislm.pretrained.save import save


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A sound model folder of the Llama family."""
    save(tmp_path / "model", random_model(vocab_size=400, n_layer=2), tokenizer)
    return tmp_path / "model"


GGUF = b"GGUF\x03\0\0\0" + bytes(64)
NANOGPT = {"model": {"transformer.wte.weight": torch.zeros(3, 2)}, "iter_num": 5}


@pytest.mark.parametrize(
    "name,data,words",
    [
        ("ckpt.pt", b"PK\x03\x04", ["training state", "Hugging Face folder"]),
        ("consolidated.00.pth", b"PK\x03\x04", ["training state", "Hugging Face folder"]),
        ("last.ckpt", b"PK\x03\x04", ["training state", "Hugging Face folder"]),
        ("train_state.pt", b"PK\x03\x04", ["training state", "run folder"]),
        ("model.gguf", GGUF, ["llama.cpp", "Hugging Face folder"]),
        ("model.Q4_K_M.GGUF", GGUF, ["llama.cpp", "Hugging Face folder"]),
        ("adapter_model.safetensors", b"data", ["adapter", "merge"]),
        ("adapter_model.bin", b"PK\x03\x04", ["adapter", "merge"]),
        ("tf_model.h5", b"data", ["another framework", "model.safetensors"]),
        ("flax_model.msgpack", b"data", ["another framework", "model.safetensors"]),
    ],
)
def test_other_files_are_named_for_what_they_are(name, data, words, tmp_path):
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, name, *words)
    refused(tmp_path, "no weights", str(tmp_path), name, *words)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "x.gguf"])
def test_a_folder_with_a_config_and_other_files_in_place_of_weights(name, folder):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "no weights", name)
    (folder / name).rename(folder / "model.safetensors")
    (folder / name).write_bytes(b"{}")  # beside the weights it is of no account
    assert load(folder)[0].config.n_layer == 2


def test_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json", "No such file")


def test_a_checkpoint_of_a_training_program_under_the_name_of_weights(folder):
    (folder / "model.safetensors").unlink()
    torch.save(NANOGPT, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "model is not a dense tensor", "save a state_dict")


def test_an_untied_model_without_its_head(folder):
    change_config(folder, tie_word_embeddings=False)
    refused(folder, "lm_head.weight is missing", "set tie_word_embeddings to true")
    change_config(folder, tie_word_embeddings=True)
    assert load(folder)[0].config.tied


WRAPPERS = [
    lambda name: f"_orig_mod.{name}",
    lambda name: f"module.{name}",
    lambda name: f"module._orig_mod.{name}",
    lambda name: f"_orig_mod.module.{name}",
    lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    lambda name: f"_fsdp_wrapped_module.{name}".replace("mlp.", "_fsdp_wrapped_module.mlp."),
    lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    lambda name: f"module.{name.removeprefix('model.')}",
]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=[wrapper("model.layers.0.mlp.down_proj")
                                                   for wrapper in WRAPPERS])  # fmt: skip
@pytest.mark.parametrize("to_bin", [False, True])
def test_wrappers_of_modules_are_no_part_of_a_name(wrapper, to_bin, folder):
    sound, names = load(folder)[0], set(load_file(folder / "model.safetensors"))

    def rename(tensors):
        for name in names:
            tensors[wrapper(name)] = tensors.pop(name)

    change_tensors(folder, rename)
    assert set(load_file(folder / "model.safetensors")) != names
    if to_bin:
        as_bin(folder)
    loaded = load(folder)[0]
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, sound.get_parameter(name))


def test_two_tensors_of_one_name(folder):
    wrapped = f"module.{FIRST_NORM}"
    change_tensors(folder, lambda tensors: tensors.update({wrapped: torch.zeros(64)}))
    refused(folder, "model.safetensors", "two tensors", "only in a prefix")
