"""Run folders: weights, training state and metrics.

    config.json, model.safetensors, tokenizer.json    the weights kept, see `save_model`
    train_state.pt                                    the last training state, for --resume
    states/step-N.pt                                  the last --keep states, if more than one
    metrics.jsonl                                     one JSON object per evaluation

Every file is written under a temporary name and renamed: a reader never sees a part of one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minislm.config import ModelConfig
from minislm.model import Transformer
from minislm.runtime.errors import CheckpointError
from minislm.runtime.files import atomic_path, atomic_write, link_or_copy, read_text, write_json
from minislm.runtime.pickles import read_pickle
from minislm.tokenizer import Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
STATE, METRICS = "train_state.pt", "metrics.jsonl"
STATES = "states"  # folder of earlier states


def save_model(folder: str | Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write the weights under our own names, the tokenizer and, last, config.json.

    (`pretrained.save` writes the names of the model's family, which other programs read.)"""
    folder, tensors = Path(folder), {}
    for name, weight in model.named_parameters():  # tied weights come once
        tensors[name] = weight.detach().cpu().contiguous()
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    tokenizer.save(folder)
    write_json(folder / CONFIG, {"model_type": "minislm"} | asdict(model.config))


def load_model(folder: str | Path) -> tuple[Transformer, Tokenizer]:
    """What `save_model` wrote: the model in eval mode, and its tokenizer.
    CheckpointError: a file is missing or damaged; the message names it."""
    folder = Path(folder)
    try:
        values = json.loads(read_text(folder / CONFIG))
        if values.pop("model_type") != "minislm":
            raise CheckpointError(f"{folder / CONFIG} has another model_type than minislm")
        values: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        model = Transformer(ModelConfig(**values))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
        if model.config.tied:
            tensors["head.weight"] = tensors["embedding.weight"]
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, LookupError, RuntimeError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is missing or damaged: {error}") from error
    return model.eval(), Tokenizer.load(folder)


def save_state(run: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Write the training state (tensors and plain containers) and keep the last `keep` states.
    UserError: the disk is full or the folder cannot be written to; the last state is unchanged."""
    with atomic_path(run / STATE) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise OSError(str(error).splitlines()[0]) from error
    if keep < 2:
        return
    with atomic_path(run / STATES / f"step-{state['step']:08d}.pt") as temporary:
        link_or_copy(run / STATE, temporary)
    for old in sorted((run / STATES).glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)


def load_state(run: Path) -> dict[str, Any]:
    """The training state of a run; raises CheckpointError naming the file."""
    path = run / STATE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no state to resume; check --out")
    try:
        state = read_pickle(path)
    except CheckpointError as error:
        hint = f"copy the last file of {run / STATES} over it, or give another --out"
        raise CheckpointError(f"{path} is damaged or not a training state; {hint}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path} is not a training state; start a new run")
    return state


def write_metrics(run: Path, history: list[dict[str, Any]]) -> None:
    """Write the records of all evaluations so far; raises UserError where the disk is full."""
    atomic_write(run / METRICS, "".join(json.dumps(record) + "\n" for record in history))
