"""Fine-tuning: the model that a run starts from, and the pairs of a file."""

import json
import random
from pathlib import Path

from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.runtime.errors import UserError
from minislm.runtime.files import read_text
from minislm.tasks import Pair
from minislm.tokenizer import Tokenizer


def start_model(source: str | Path, device: str, trainable: str) -> tuple[Transformer, Tokenizer]:
    """What `load` opens, where only the part to train has gradients.
    "head" is the output matrix; where it is tied, that is the embedding too."""
    model, tokenizer = load(source, device=device)
    tokenizer.end_ids |= {tokenizer.eot_id}  # with it the new texts end, whatever ended the old
    parts = {"blocks": model.blocks, "last-block": model.blocks[-1], "head": model.head}
    model.requires_grad_(False)
    parts.get(trainable, model).requires_grad_(True)
    return model, tokenizer


def read_pairs(path: str) -> tuple[list[Pair], list[Pair]]:
    """The pairs of a JSONL file, numbered by line: to train, and held out, which are those of a
    tenth of the prompts. UserError: a line that is no pair."""
    found = []
    for number, line in enumerate(read_text(Path(path)).removeprefix("\ufeff").split("\n"), 1):
        if found and not line.strip():
            continue
        try:
            values = json.loads(line)
            found.append(Pair("pairs", number, values["prompt"], values["completion"]))
            (found[-1].prompt + found[-1].answer).encode()  # two strings, of whole characters
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: no prompt and completion: {error}") from error
    prompts = list(dict.fromkeys(pair.prompt for pair in found))
    held_out = set(random.Random(0).sample(prompts, len(prompts) // 10))
    train = [pair for pair in found if pair.prompt not in held_out]
    return train, [pair for pair in found if pair.prompt in held_out]
