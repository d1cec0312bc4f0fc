"""The trends study: how loss and answers depend on width, depth and the amount of text; and the law
loss = E + A N^-a + B D^-b (Hoffmann et al. 2022) for N parameters of blocks and D tokens of text,
fitted to all models but the largest on all the text, which it then predicts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from minislm.config import ModelConfig, TrainConfig
from minislm.corpus.prepare import prepare, train_tokenizer
from minislm.dataset import Batches, TokenDataset, hold_out
from minislm.evaluation import text_loss
from minislm.fast.backward import FastLossAndGrad
from minislm.model import Transformer
from minislm.reporting.tables import markdown_table
from minislm.runtime.errors import UserError
from minislm.scoring.grading import answer
from minislm.scoring.prompts import QUESTIONS
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Result, Row, Study, Trial
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer, validation_subset

WIDTHS, DEPTHS = (256, 128, 64), (4, 2, 1)
EPOCHS = {1: 3, 4: 6, 16: 12}  # of one story in so many
RATE = {256: 1.0, 128: 1.0, 64: 1.0}  # multiples of the default rates for each width
RATES = (0.5, 1.0, 2.0)  # those that were tried, with two blocks on a sixteenth of the text
SEEDS, VOCABULARY, EVALUATIONS = 2, 2048, 8
Point = tuple[float, float, float]  # N, D, loss


def plan(config: StudyConfig) -> list[list[Trial]]:
    """The token file; the rates of each width, with seed 0; the grid, and some twice as long.
    UserError: no text is given."""
    if not config.text:
        raise UserError("--study trends needs real stories: give --data TEXT")

    def model(width: int, depth: int, part: int, seed: int, times: float = 1, rate: float = 0
              ) -> Trial:  # fmt: skip
        shape = dict(width=width, n_layer=depth, n_head=width // 32, n_kv_head=0)
        rate = rate or RATE[width]
        recipe = dict(learning_rate=7e-3 * rate, matrix_rate=0.02 * rate, batch_tokens=2048)
        return dict(kind="model", data=config.text, shape=shape, recipe=recipe, part=part,
                    epochs=EPOCHS[part] * times, seed=seed)  # fmt: skip

    widths, depths = WIDTHS[config.quick :], DEPTHS[config.quick :]
    parts, times = ((4, 16), 0.25) if config.quick else (tuple(EPOCHS), 1)
    seeds = range(1, 1 + (config.seeds or (1 if config.quick else SEEDS)))
    rates = [model(width, 2, 16, 0, times, rate) for width in widths for rate in RATES]
    grid = [model(width, depth, part, seed, times)
            for part, seed, width, depth in product(parts, seeds, widths, depths)]  # fmt: skip
    longer = [model(width, 1, part, 1, 2 * times) for width in WIDTHS[1:] for part in parts]
    return [[dict(kind="text", data=config.text)], rates + grid + longer]


def prepared(data: str, folder: Path) -> Result:
    """Make the tokenizer and the token file, which all models share."""
    tokenizer = train_tokenizer(data, (), VOCABULARY, "single", folder / "cache")
    return {"tokens": prepare(data, tokenizer, folder / "cache").n_tokens}


def start(
    shape: dict[str, Any], recipe: dict[str, Any], part: int, epochs: float, seed: int, data: str,
    folder: Path,
) -> tuple[Trainer, TokenDataset, Tokenizer]:  # fmt: skip
    """A model of this shape, to be trained on one story in `part`, and the validation text."""
    tokenizer = train_tokenizer(data, (), VOCABULARY, "single", folder / "cache")
    train, valid = hold_out(prepare(data, tokenizer, folder / "cache"))
    train, valid = train.subset(range(seed % part, len(train), part)), validation_subset(valid)
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**shape, vocab_size=tokenizer.vocab_size))
    config = TrainConfig(**recipe, seed=seed)
    config = replace(config, steps=max(1, round(train.n_tokens * epochs / config.batch_tokens)))
    batches = Batches(train, context=model.config.context, batch_tokens=config.batch_tokens,
                      eot_id=tokenizer.eot_id, seed=seed)  # fmt: skip
    trainer = Trainer(model, batches, config, loss_and_grad=FastLossAndGrad(model))
    return trainer, valid, tokenizer


def learn(**trial: Any) -> Result:
    """Train a model (see `start`): the lowest of eight evaluations (bits per byte); questions."""
    trainer, valid, tokenizer = start(**trial)
    losses, model = [], trainer.model

    def evaluate() -> None:
        if trainer.done() * EVALUATIONS >= len(losses) + 1:
            losses.append(text_loss(model, valid, tokenizer.eot_id).bits_per_byte)
            model.train()

    trainer.train(evaluate)
    right, questions = map(sum, zip(*answer(model.eval(), tokenizer, QUESTIONS).values()))
    n_parameters = sum(weight.numel() for weight in model.blocks.parameters())
    return {"loss": min(losses), "losses": losses, "right": right / questions, "N": n_parameters,
            "D": trainer.batches.documents.n_tokens, "steps": trainer.progress.step}  # fmt: skip


def fit(points: Sequence[Point]) -> tuple[float, ...]:
    """E, A, a, B and b of the law, by least squares: a and b from a grid, the others exactly."""
    n, d, loss = np.array(points).T
    best = (np.inf, float(loss.min()), 0.0, 1.0, 0.0, 1.0)
    for a, b in product(np.linspace(0.04, 1.2, 30), repeat=2):
        columns = np.stack([np.ones_like(n), n**-a, d**-b], 1)
        weights, *_ = np.linalg.lstsq(columns, loss, rcond=None)
        error = float(((columns @ weights - loss) ** 2).sum())
        if weights.min() >= 0 and error < best[0]:
            best = (error, weights[0], weights[1], a, weights[2], b)
    return tuple(map(float, best[1:]))


def predict(law: Sequence[float], n: float, d: float) -> float:
    e, big_a, a, big_b, b = law
    return e + big_a * n**-a + big_b * d**-b


def report(rows: Sequence[Row], folder: Path) -> str:
    """The report in Markdown."""
    cells: dict[tuple, list[Result]] = defaultdict(list)
    for trial, result in ((row["trial"], row["result"]) for row in rows):
        if trial["kind"] == "model":
            width, depth = trial["shape"]["width"], trial["shape"]["n_layer"]
            rate = trial["recipe"]["matrix_rate"] / 0.02
            part, epochs, seed = (trial[key] for key in ("part", "epochs", "seed"))
            cells[part, width, depth, epochs, rate, seed == 0].append(result)
    lines = [(f"1/{part}", str(width), str(depth), f"{epochs:g}", f"{rate:g}",
              *(f"{found[0][key]:,}" for key in ("N", "D", "steps")),
              ", ".join(f"{each['loss']:.4f}" for each in found),
              f"{fmean(each['losses'][-1] for each in found):.4f}",
              f"{fmean(each['right'] for each in found):.0%}")
             for (part, width, depth, epochs, rate, _), found in sorted(cells.items())]  # fmt: skip
    head = ("text", "width", "blocks", "epochs", "rate", "parameters of blocks", "tokens", "steps",
            "bits per byte of each seed", "at the end", "questions right")  # fmt: skip
    grid = [found for (part, width, _, epochs, rate, tuning), found in sorted(cells.items())
            if not tuning and epochs == EPOCHS[part] and rate == RATE[width]]  # fmt: skip
    law = _law(grid) if len(grid) > 6 else ""
    return f"{law}{markdown_table(head, lines)}" if lines else ""


def _law(grid: list[list[Result]]) -> str:
    """The law without the corner, bootstrap intervals over models, and the corner predicted."""
    points = [(found[0]["N"], found[0]["D"], fmean(each["loss"] for each in found))
              for found in grid]  # fmt: skip
    points.sort(key=lambda point: point[0] * point[1])
    *others, (n, d, loss) = points
    rng, law = np.random.default_rng(0), fit(others)
    laws = [fit([others[i] for i in rng.integers(len(others), size=len(others))])
            for _ in range(200)]  # fmt: skip
    low, high = np.quantile(laws, (0.025, 0.975), axis=0)
    values = ", ".join(f"{name} = {value:.3g} ({a:.3g} to {b:.3g})"
                       for name, value, a, b in zip("EAaBb", law, low, high))  # fmt: skip
    a, b = np.quantile([predict(each, n, d) for each in laws], (0.025, 0.975))
    return (f"loss = E + A N^-a + B D^-b with {values}. The model with N = {n:,} and D = {d:,} was "
            f"left out: {predict(law, n, d):.4f} ({a:.4f} to {b:.4f}) predicted, {loss:.4f} "
            "measured. Intervals: 95 %, bootstrap of models.\n\n")  # fmt: skip


STUDY = Study(plan, dict(text=prepared, model=learn), report)
