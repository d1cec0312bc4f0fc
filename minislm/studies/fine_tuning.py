"""Training in memory, without a run folder: what the studies do hundreds of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from minislm.config import TrainConfig
from minislm.dataset import Batches, TokenDataset
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.optimizer import FastMuon
from minislm.model import Transformer
from minislm.optimizer import make_optimizers
from minislm.tasks import Pair, encode_pair
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer

# Fine-tuning of a pretrained model: lower rates, so that it forgets less.
FINE_TUNING = dict(learning_rate=1e-3, matrix_rate=4e-3, batch_tokens=1024)
_SMOOTHING = 0.8  # weight of the past in the loss that decides when to stop


def train_in_memory(
    model: Transformer, batches: Batches, config: TrainConfig, steps: int, until: float = 0.0
) -> tuple[int, float]:
    """Train in place for `steps` steps, or until the smoothed loss is below `until`.

    Matrix products are in bfloat16. Only parameters that require a gradient are changed. Returns
    the number of steps and the smoothed loss in nats per token.
    """
    trainer = Trainer(
        model, batches, replace(config, steps=steps, minutes=None), dtype=torch.bfloat16,
        loss_and_grad=FastLossAndGrad(model),
        optimizers=make_optimizers(model, config, torch.bfloat16, FastMuon),
    )  # fmt: skip
    smooth: list[float] = []

    def on_step() -> None:
        loss = trainer.read_loss()
        smooth.append(_SMOOTHING * smooth[-1] + (1 - _SMOOTHING) * loss if smooth else loss)
        trainer.stopped = smooth[-1] < until

    trainer.train(on_step)
    model.eval()
    return trainer.progress.step, smooth[-1]


def train_on_stories(
    model: Transformer, tokenizer: Tokenizer, stories: TokenDataset, config: TrainConfig, steps: int
) -> float:
    """Train in place on stories: the smoothed loss at the end."""
    batches = Batches(
        stories,
        context=model.config.context,
        batch_tokens=config.batch_tokens,
        eot_id=tokenizer.eot_id,
        seed=config.seed,
    )
    return train_in_memory(model, batches, config, steps)[1]


def fine_tune_on_pairs(
    model: Transformer,
    tokenizer: Tokenizer,
    shown: Sequence[Pair],
    config: TrainConfig,
    steps: int,
    *,
    until: float = 0.01,
    loss_on: str = "completion",
) -> tuple[int, float]:
    """Fine-tune in place on pairs, all of which fit the context: see `train_in_memory`."""
    batches = Batches(
        TokenDataset.from_ids([]),
        [encode_pair(tokenizer, pair) for pair in shown],
        context=model.config.context,
        batch_tokens=config.batch_tokens,
        eot_id=tokenizer.eot_id,
        loss_on=loss_on,
        seed=config.seed,
    )
    return train_in_memory(model, batches, config, steps, until)
