"""Models as Hugging Face folders, which other programs open."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from minislm.checkpoint import CONFIG, WEIGHTS
from minislm.model import Transformer
from minislm.pretrained.families import OWN, Family, family_of, hf_config
from minislm.pretrained.tokenizers import save_tokenizer
from minislm.runtime.files import atomic_path, atomic_write
from minislm.tokenizer import Tokenizer


def save(folder: str | Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a Hugging Face model folder, with the names of the family that the model belongs to.

    That is config.json, model.safetensors, tokenizer.json, tokenizer_config.json and
    generation_config.json, each written atomically; config.json comes last.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder, config, family = Path(folder), model.config, family_of(model.config)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(_their_tensors(model, family), temporary, metadata={"format": "pt"})
    save_tokenizer(folder, tokenizer, config.context)
    contents = hf_config(config, tokenizer.eot_id, bos_id=tokenizer.prompt_ids("")[0])
    if family is not OWN:
        contents["torch_dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    ids = {key: value for key, value in contents.items() if key.endswith("_token_id")}
    atomic_write(folder / "generation_config.json", json.dumps(ids, indent=2) + "\n")
    atomic_write(folder / CONFIG, json.dumps(contents, indent=2) + "\n")


def _their_tensors(model: Transformer, family: Family) -> dict[str, Tensor]:
    tensors = {}
    for ours, weight in model.named_parameters():  # tied weights come once
        for theirs, rows in family.pieces(ours, len(weight), model.config):
            piece = weight.detach()[rows].cpu()
            piece = piece.T if family.transposed(ours) else piece
            tensors[theirs] = piece.clone(memory_format=torch.contiguous_format)
    return tensors
