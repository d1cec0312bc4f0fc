"""Training in memory, without a run folder: what the studies do hundreds of times."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from minislm.config import TrainConfig
from minislm.dataset import Batches, TokenDataset
from minislm.evaluation import text_loss
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
    model: Transformer, tokenizer: Tokenizer, train: Sequence[Pair], config: TrainConfig,
    steps: int, *, until: float = 0.01, loss_on: str = "completion",
    stories: TokenDataset | None = None,
) -> tuple[int, float]:  # fmt: skip
    """Train in place on pairs, all of which fit the context, and on stories: for `steps` steps, or
    until the smoothed loss is below `until`. Matrix products are in bfloat16. Only parameters that
    require a gradient are changed. Returns the steps and the smoothed loss in nats per token."""
    batches = Batches(
        stories or TokenDataset.from_ids([]), [encode_pair(tokenizer, pair) for pair in train],
        context=model.config.context, batch_tokens=config.batch_tokens, eot_id=tokenizer.eot_id,
        loss_on=loss_on, seed=config.seed,
    )  # fmt: skip
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


def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    stories = TokenDataset.from_texts(texts, tokenizer)
    return text_loss(model, stories, tokenizer.eot_id).bits_per_byte
