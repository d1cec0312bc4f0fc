"""Makes data/stories, the model that comes with the project, from a run:

    python data/ship.py runs/stories --valid v2-valid.txt --compare stories260K.bin

The weights are rounded to 8 bits with a power of two per row, which bfloat16 holds exactly: so the
int8 page of `eval.py --inspect` runs the same model as Python. Then everything on the model card
is measured, and what the page shows of the text is stored, as the text itself is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from minislm.cli.inspect import MEASURED
from minislm.corpus.prepare import prepare
from minislm.evaluation import text_loss
from minislm.fast.sampler import FastSampler
from minislm.interpret import page
from minislm.interpret.export import quantize
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.files import atomic_write
from minislm.scoring.validation import SHOWN

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "stories"
PEAK_STORIES = 40  # sampled stories in which the page shows where neurons are most active

CARD = (ROOT / "data" / "ship.txt").read_text(encoding="utf-8")  # of the model card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of train.py")
    parser.add_argument("--valid", required=True, help="text that the model is measured on")
    parser.add_argument("--compare", required=True, help="model whose scores stand beside")
    parser.add_argument("--machine", default="two threads of a CPU", help="for the card")
    flags = parser.parse_args()
    model, tokenizer = load(str(flags.run))
    with tempfile.TemporaryDirectory() as cache:
        valid = prepare(flags.valid, tokenizer, cache)
        before = text_loss(model, valid, tokenizer.eot_id, progress=True)
        round_weights(model)
        save(FOLDER, model.bfloat16(), tokenizer)
        model, tokenizer = load(str(FOLDER))
        after = text_loss(model, valid, tokenizer.eot_id, progress=True)
        figures = (each.bits_per_byte for each in (before, after))
        print("bits per byte before and after rounding:", *(f"{each:.4f}" for each in figures))
        sampler = FastSampler(model, tokenizer)
        texts = sampler.generate([""] * PEAK_STORIES, seeds=range(PEAK_STORIES), temperature=0.7)
        written = [[tokenizer.eot_id, *tokenizer.encode(text)] for text in texts]
        measured = page.measure(model, tokenizer, valid, written)
        measured["text"] = "stories of TinyStories V2-valid"
        atomic_write(FOLDER / MEASURED, json.dumps(measured, separators=(",", ":")) + "\n")
        card = describe(flags, model, tokenizer, before, after, len(valid), texts[:5], cache)
    atomic_write(FOLDER / "README.md", card)


@torch.no_grad()
def round_weights(model: Transformer) -> None:
    """Round every matrix to multiples of a power of two per row, 127 of them at most; of two such
    grids, the one with the smaller squared error."""
    for weight in model.parameters():
        if weight.ndim == 2:
            scale = torch.exp2(
                (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30).log2().ceil()
            )
            grids = [(weight / s).round().clamp(-127, 127) * s for s in (scale, scale / 2)]
            errors = [(grid - weight).square().sum(1, keepdim=True) for grid in grids]
            weight.copy_(torch.where(errors[1] < errors[0], grids[1], grids[0]))
            codes, scales = quantize(weight)
            assert torch.equal(codes * scales[:, None], weight)


def describe(flags, model, tokenizer, before, after, n_valid, texts, cache) -> str:
    """The model card; every figure in it is measured here or read from the run."""
    settings = json.loads((flags.run / "run.json").read_text())
    last = [json.loads(line) for line in (flags.run / "metrics.jsonl").read_text().splitlines()][-1]
    settings["train"]["steps"] = last["step"]  # a resumed run may be longer or shorter
    train = prepare(settings["data"]["data"], tokenizer, cache)
    other_model, other_tokenizer = load(flags.compare)
    other = text_loss(
        other_model, prepare(flags.valid, other_tokenizer, cache), other_tokenizer.eot_id
    )
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        scoring = ["--score", "--model", str(FOLDER), flags.compare, "--json", file.name]
        subprocess.run([sys.executable, str(ROOT / "eval.py"), *scoring], check=True)
        entries = json.load(open(file.name))["models"]
    return CARD.format(
        parameters=model.n_parameters(), vocab=tokenizer.vocab_size, n_train=len(train),
        megabytes=(FOLDER / "model.safetensors").stat().st_size / 1e6,
        megabytes_text=train.bytes / 1e6, tokens=last["tokens"], steps=last["step"],
        minutes=last["seconds"] / 60, machine=flags.machine, command=command_of(settings),
        run=f"runs/{flags.run.name}", valid=Path(flags.valid).name, before=before.bits_per_byte,
        after=after.bits_per_byte, nats=after.nats_per_token, perplexity=after.perplexity,
        other=other.bits_per_byte, n_valid=n_valid, scores=score_rows(entries),
        stories="\n\n".join(f"{k}. {' '.join(text.split())}" for k, text in enumerate(texts, 1)),
        peaks=PEAK_STORIES,
    )  # fmt: skip


def score_rows(entries: dict) -> str:
    rows = ["| model | " + " | ".join(SHOWN) + " |", "|---" * (1 + len(SHOWN)) + "|"]
    for name, entry in entries.items():
        cells = ("{mean:.2f} ({low:.2f} to {high:.2f})".format(**entry[each]) for each in SHOWN)
        rows.append(f"| {Path(name).name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def command_of(settings: dict) -> str:
    """The command line of a run, with what differs from the defaults of train.py."""
    from minislm.config import ModelConfig, TrainConfig

    words = [f"python train.py --data {Path(settings['data']['data']).name}",
             f"--valid {Path(settings['data']['valid']).name}"]  # fmt: skip
    for part, defaults in (("model", ModelConfig()), ("train", TrainConfig())):
        for name, value in settings[part].items():
            value = tuple(value) if isinstance(value, list) else value
            if value != getattr(defaults, name, value) and name != "vocab_size":
                flag = "--" + name.replace("_", "-")
                words.append(flag if value is True else f"{flag} {value}")
    return " ".join([*words, "--out runs/stories"])


if __name__ == "__main__":
    main()
