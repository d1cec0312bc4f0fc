"""Short training without a run folder: what the studies do hundreds of times.

The same batches, loss, optimizers and schedule as `training.py`, for a fixed number of steps or
until a loss is reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from minislm.dataset import Batches, Example
from minislm.config import TrainConfig
from minislm.corpus.prepare import TokenFile
from minislm.fast.backward import backward
from minislm.model import Transformer
from minislm.optimizer import advance, make_optimizers
from minislm.tasks import Pair, encode_pair
from minislm.tokenizer import Tokenizer
from minislm.training import schedule

# What a model that was trained before is fine-tuned with: slower, so that it forgets less.
RATES = dict(learning_rate=1e-3, matrix_rate=4e-3, batch_tokens=1024)
_SMOOTH = 0.8  # weight of the past in the loss that says when to end


def fit(
    model: Transformer,
    batches: Batches,
    config: TrainConfig,
    steps: int,
    until: float = 0.0,
) -> tuple[int, float]:
    """Train in place for `steps` steps, or until the smoothed loss is below `until`.

    Products are in bfloat16. Only weights that require a gradient are changed. Returns the steps
    made and the smoothed loss in nats per token.
    """
    optimizers, stream, smooth = make_optimizers(model, config), iter(batches), None
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model.train()
    for step in range(steps):
        share = schedule(step / steps, config.warmup, config.decay)
        loss = backward(model, *next(stream), torch.bfloat16).item()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        advance(optimizers, share)
        smooth = loss if smooth is None else _SMOOTH * smooth + (1 - _SMOOTH) * loss
        if smooth < until:
            break
    model.eval()
    return step + 1, smooth


def on_stories(
    model: Transformer, tokenizer: Tokenizer, stories: TokenFile, config: TrainConfig, steps: int
) -> float:
    """Train in place on stories: the smoothed loss at the end."""
    batches = Batches(
        stories,
        [],
        context=model.config.context,
        batch_tokens=config.batch_tokens,
        eot_id=tokenizer.eot_id,
        seed=config.seed,
    )
    return fit(model, batches, config, steps)[1]


def on_pairs(
    model: Transformer,
    tokenizer: Tokenizer,
    shown: Sequence[Pair],
    config: TrainConfig,
    steps: int,
    *,
    until: float = 0.01,
    loss_on: str = "completion",
) -> tuple[int, float]:
    """Fine-tune in place on pairs, all of which fit the context: `fit`'s result."""
    batches = Batches(
        TokenFile.from_ids([], 0),
        [Example(*encode_pair(tokenizer, pair)) for pair in shown],
        context=model.config.context,
        batch_tokens=config.batch_tokens,
        eot_id=tokenizer.eot_id,
        loss_on=loss_on,
        seed=config.seed,
    )
    return fit(model, batches, config, steps, until)
