"""What a change of the training recipe gives where little text is read several times:

    python data/recipes.py v2-train.txt

Each recipe is trained from the same seeds on the same stories as the first one (and on the same
batches, if it does not change them). A seed has a fifth of the text. A recipe counts if the 95 %
interval of the mean difference excludes zero. What is finished is kept in --out: the same command
again trains what is missing.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch.nn import functional as F

from minislm.config import PRESET_TRAINING, PRESETS, ModelConfig, TrainConfig
from minislm.dataset import IGNORED, Batches, TokenDataset
from minislm.evaluation import text_loss
from minislm.optimizer import schedule
from minislm.reporting.tables import markdown_table
from minislm.runtime.errors import run_script
from minislm.studies import trends
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Row, Study, Trial, run_study
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer

PART, EPOCHS, SEEDS = 5, 4, 5  # one story in 5, others for each seed
# Name -> what is not as in the preset: options of `ModelConfig` and `TrainConfig`, and CHANGES.
RECIPES: dict[str, dict[str, Any]] = {
    "two blocks": {},
    "averaged weights": dict(averaged=0.6),
    "cautious weight decay 0.8": dict(cautious_decay=0.8),
    "momentum from 0.85 and back": dict(momentum_back=0.85),
    "rates fall as powers": dict(power_decay=1.2),
    "rates fall over the last 70 %": dict(decay=0.7),
    "dropout 0.1": dict(dropout=0.1),
    "bigrams as targets at first": dict(bigram_targets=0.3),
    "BPE dropout 0.1": dict(bpe_dropout=0.1),
    "batches of 2,048 tokens": dict(batch_tokens=2048),
    "weight decay 0.8": dict(weight_decay=0.8),
    "AdamW for all": dict(optimizer="adamw", learning_rate=3e-3),
}
# Student's t, 97.5 %, from 1 degree of freedom on.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

AfterStep = Callable[[], None]


def averaged(trainer: Trainer, share: float) -> AfterStep:
    """At the end, the weights are moved by `share` to their exponential moving average: over the
    last 11 % of training, with a horizon of 5.5 % of its steps."""
    weights, means = list(trainer.model.parameters()), []
    horizon = max(1.0, 0.055 * (trainer.config.steps or 1))

    @torch.no_grad()
    def after_step() -> None:
        if trainer.done() < 0.89:
            return
        if not means:
            means.extend(weight.clone() for weight in weights)
        for weight, mean in zip(weights, means):
            mean.lerp_(weight, 1 / horizon)
            if trainer.done() >= 1:
                weight.lerp_(mean, share)

    return after_step


def cautious_decay(trainer: Trainer, decay: float) -> AfterStep:
    """Weight decay only where an update makes the weight smaller (Chen et al. 2025), of embedding
    and matrices; it falls linearly to an eighth. It is added to the recipe's own."""
    peaks = {weight: group["peak"] for optimizer in trainer.optimizers
             for group in optimizer.param_groups for weight in group["params"]}  # fmt: skip
    weights = [weight for weight in peaks if weight.ndim == 2]
    before = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def after_step() -> None:
        rate = schedule(trainer.done(), trainer.config.warmup, trainer.config.decay)
        for weight, old in zip(weights, before):
            smaller = (weight - old) * old < 0
            weight.sub_(old * smaller, alpha=decay * (1 - trainer.done() * 7 / 8) * rate
                        * peaks[weight])  # fmt: skip
            old.copy_(weight)

    return after_step


def momentum_back(trainer: Trainer, low: float) -> AfterStep:
    """Muon's momentum rises from `low` over the first 10 % and falls back over the last 7 %."""
    group_high = [(group, group["momentum"]) for group in trainer.optimizers[0].param_groups]

    def after_step() -> None:
        part = min(1.0, trainer.done() / 0.1, (1 - trainer.done()) / 0.07)
        for group, high in group_high:
            group["momentum"] = low + (high - low) * part

    after_step()
    return after_step


def power_decay(trainer: Trainer, power: float) -> AfterStep:
    """The rate of Muon falls from 18 % of training on, that of AdamW from 50 %, as powers of what
    is left."""
    pairs = zip(trainer.optimizers, (0.18, 0.5))
    peaks = [(group, group["peak"], begin) for optimizer, begin in pairs
             for group in optimizer.param_groups]  # fmt: skip

    def after_step() -> None:
        done, config = trainer.done(), trainer.config
        for group, peak, begin in peaks:
            rate = min(1.0, (1 - done) / (1 - begin)) ** power
            usual = schedule(done, config.warmup, config.decay)
            if done >= config.warmup and usual > 0:  # the trainer multiplies by `usual`
                group["peak"] = peak * rate / usual

    return after_step


def bigram_targets(trainer: Trainer, part: float) -> AfterStep:
    """In the first `part` of training the targets are mixed with the distribution of a smoothed
    bigram model, from one half to none of it."""
    log_p = _bigrams(trainer.batches, trainer.model.config.vocab_size)
    usual = trainer.loss_and_grad

    def loss_and_grad(model, inputs_BT, targets_BT, dtype, count):  # noqa: ANN001, ANN202
        share = 0.5 * (1 - trainer.done() / part)
        if share <= 0:
            return usual(model, inputs_BT, targets_BT, dtype, count)
        kept = targets_BT != IGNORED
        losses_NV = -F.log_softmax(model(inputs_BT)[kept], dim=-1)
        own = losses_NV.gather(1, targets_BT[kept][:, None]).sum()
        soft = (log_p[inputs_BT[kept]].exp() * losses_NV).sum()
        (((1 - share) * own + share * soft) / count).backward()
        return own.detach() / count

    trainer.loss_and_grad = loss_and_grad
    return lambda: None


def _bigrams(batches: Batches, vocab_size: int) -> torch.Tensor:
    """Log-probabilities [V, V] of the next token, with Kneser-Ney smoothing."""
    text = batches.documents
    after = torch.from_numpy(text.tokens[text.starts[0] : text.starts[-1]].astype("int64"))
    before = torch.cat((torch.tensor([batches.eot_id]), after[:-1]))
    counts = torch.zeros(vocab_size**2)
    counts.index_add_(0, before * vocab_size + after, torch.ones(len(after)))
    counts = counts.view(vocab_size, vocab_size)
    kinds = (counts > 0).float()
    single = (kinds.sum(0) + 0.1) / (kinds.sum(0) + 0.1).sum()
    total = counts.sum(1, keepdim=True).clamp(min=1)
    left = torch.where(
        counts.sum(1, keepdim=True) > 0, 0.75 * kinds.sum(1, keepdim=True) / total, 1
    )
    return ((counts - 0.75).clamp(min=0) / total + left * single).log()


# Changes that are no options: name -> what is done before the training and after each step.
CHANGES: dict[str, Callable[[Trainer, float], AfterStep]] = {
    each.__name__: each
    for each in (averaged, cautious_decay, momentum_back, power_decay, bigram_targets)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", help="stories: a file or a folder, as --data of train.py")
    parser.add_argument("--out", default="runs/studies/recipes", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, help="trials at a time (default: one per core)")
    given = parser.parse_args()
    config = StudyConfig(out=given.out, seeds=given.seeds, processes=given.processes)
    study = Study(lambda _: plan(given.text, given.seeds), KINDS, report)
    print(run_study("recipes", study, config, f"python data/recipes.py {given.text}").read_text())


def plan(text: str, seeds: int) -> list[list[Trial]]:
    """The token file; then all recipes, seed by seed."""
    trials: list[Trial] = []
    for seed in range(seeds):
        for name, changes in RECIPES.items():
            of_training = {k: v for k, v in changes.items() if k in TrainConfig.__annotations__}
            of_model = {k: v for k, v in changes.items() if k in ModelConfig.__annotations__}
            others = {k: v for k, v in changes.items() if k not in of_training | of_model}
            trials.append(dict(
                kind="recipe", name=name, shape=PRESETS["two-blocks"] | of_model, data=text,
                recipe=PRESET_TRAINING["two-blocks"] | of_training, changes=others, part=PART,
                epochs=EPOCHS, seed=seed,
            ))  # fmt: skip
    return [[dict(kind="text", data=text)], trials]


def learn(name: str, changes: dict[str, float], **trial: Any) -> dict[str, Any]:
    """Train a model (see `trends.start`); the bits per byte of its last weights on the validation
    text."""
    trainer, valid, tokenizer = trends.start(**trial)
    if rate := changes.get("bpe_dropout"):
        trainer.batches = with_bpe_dropout(trainer.batches, tokenizer, rate, trial["epochs"])
    after = [CHANGES[key](trainer, value) for key, value in changes.items() if key in CHANGES]

    def after_step() -> None:
        for each in after:
            each()

    steps = trainer.train(after_step).step
    loss = text_loss(trainer.model, valid, tokenizer.eot_id).bits_per_byte
    return {"loss": loss, "train_loss": trainer.read_loss(), "steps": steps}


def with_bpe_dropout(batches: Batches, tokenizer: Tokenizer, rate: float, epochs: float) -> Batches:
    """The same texts once for each epoch, in which merges are left out at this rate (Provilkov et
    al. 2020)."""
    old, copies = batches.documents, math.ceil(epochs)
    texts = [tokenizer.decode(old.document(i)[:-1].tolist()) for i in range(len(old))]
    tokenizer.backend.model.dropout = rate
    text = TokenDataset.from_texts(texts * copies, tokenizer)
    tokenizer.backend.model.dropout = None
    return Batches(text, context=batches.context, batch_tokens=batches.batch_tokens,
                   eot_id=batches.eot_id, seed=batches.seed)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean by Student's t; of one value, all numbers."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = T[min(len(values) - 2, len(T) - 1)] * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def report(rows: Sequence[Row], folder: Path) -> str:
    """A table in Markdown."""
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["trial"]["kind"] == "recipe":
            losses[row["trial"]["name"]][row["trial"]["seed"]] = row["result"]["loss"]
            seconds[row["trial"]["name"]].append(row["seconds"])
    lines, first = [], next(iter(RECIPES))
    for name, own in losses.items():
        base = {} if name == first else losses.get(first, {})
        gap, differences = ("-", "-"), [own[seed] - base[seed] for seed in own if seed in base]
        if differences:
            low, high = interval(differences)
            gap = (f"{fmean(differences):+.4f} ({low:+.4f} to {high:+.4f})",
                   "yes" if low > 0 or high < 0 else "no")  # fmt: skip
        lines.append((name, str(len(own)), f"{fmean(own.values()):.4f}", *gap,
                      f"{fmean(seconds[name]):.0f}"))  # fmt: skip
    head = ("recipe", "seeds", "bits per byte", "beside the first, 95 % interval", "counts",
            "seconds")  # fmt: skip
    return markdown_table(head, lines) if lines else ""


KINDS = dict(text=trends.prepared, recipe=learn)

if __name__ == "__main__":
    run_script(main)
