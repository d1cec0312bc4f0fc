"""Models as Hugging Face folders, which other programs open."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from minislm.checkpoint import CONFIG, WEIGHTS
from minislm.model import Transformer
from minislm.pretrained.families import OWN, family_of, hf_config
from minislm.pretrained.rope import check_rotary_tables
from minislm.pretrained.tokenizers import save_tokenizer
from minislm.runtime.files import atomic_path, write_json
from minislm.tokenizer import Tokenizer


def save(folder: str | Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write a Hugging Face folder, under the names of the model's family, config.json last.
    UserError: the folder cannot be written to, or the model lacks its `rope_scaling`."""
    check_rotary_tables(model)
    folder, config, family = Path(folder), model.config, family_of(model.config)
    tensors = {}
    for name, weight in model.named_parameters():  # tied weights come once
        for stored, rows, transposed in family.slices(name, len(weight), config):
            values = weight.detach()[rows].cpu()
            values = values.T if transposed else values
            tensors[stored] = values.clone(memory_format=torch.contiguous_format)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    save_tokenizer(folder, tokenizer, config.context)
    start, end, ends = tokenizer.prompt_ids("")[0], tokenizer.eot_id, sorted(tokenizer.end_ids)
    eos = ends if len(ends) > 1 else ends[0]
    ids = {"bos_token_id": start, "eos_token_id": eos, "pad_token_id": end}
    contents = hf_config(family, config) | ids
    if family is not OWN:
        contents["torch_dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    write_json(folder / "generation_config.json", ids)
    write_json(folder / CONFIG, contents)
