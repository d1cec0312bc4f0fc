"""Training and validation text of a run as tokens, from files, the hub or the story generator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minislm.cli.config import DataConfig, EvalConfig
from minislm.cli.run_settings import Settings, task_names
from minislm.config import ModelConfig
from minislm.corpus.prepare import prepare, train_tokenizer
from minislm.dataset import TokenDataset, hold_out
from minislm.pretrained.hub import find_text
from minislm.runtime.errors import log
from minislm.stories.generate import generate
from minislm.tasks import encode_pair, fits, pairs
from minislm.tokenizer import Tokenizer

HELD_OUT_STORIES = 400  # generated for validation, beyond those of the training text
# What one block with rotary positions cannot learn: to stop counting, it would have to compare its
# number with the prompt's, whose digits it cannot distinguish from those of its own answer.
_NEEDS_TWO_BLOCKS = {"count"}


@dataclass(frozen=True)
class TrainingData:
    """The tokens of a run, ready to be batched."""

    tokenizer: Tokenizer
    train: TokenDataset
    valid: TokenDataset
    tasks: list[str]
    examples: list[tuple[list[int], list[int]]]  # ids of prompt and completion


def generated(count: int, seed: int, start: int = 0) -> list[str]:
    """The texts of generated stories."""
    return [story.text for story in generate(count, seed, start=start)]


def prepare_data(settings: Settings, tokenizer: Tokenizer | None = None) -> TrainingData:
    """Text and pairs as tokens; a tokenizer is trained on them unless one is given."""
    data, context = _with_files(settings.data), settings.model.context
    names = task_names(data)
    texts = [] if data.data else generated(data.stories, settings.train.seed)
    if tokenizer is None:
        trained_on = [pair for name in names for pair in pairs(name, "train")]
        pair_texts = [text for pair in trained_on for text in (pair.prompt, pair.answer)]
        if data.data:
            tokenizer = train_tokenizer(data.data, pair_texts, data.vocab, data.digits, data.cache)
        else:
            tokenizer = Tokenizer.train([*texts, *pair_texts], data.vocab, data.digits)
    train, valid = _datasets(data, texts, settings.train.seed, tokenizer)
    if data.tasks == "auto":
        names = [name for name in names if _suits(name, settings.model, tokenizer)]
    return TrainingData(tokenizer, train, valid, names, _examples(names, tokenizer, context))


def _with_files(data: DataConfig) -> DataConfig:
    """The same settings with texts of the hub as files, and the validation text of --data unless
    --valid names one."""
    if data.data:
        text, its_valid = find_text(data.data)
        data = replace(data, data=text, valid=data.valid or its_valid)
    if data.valid:
        data = replace(data, valid=find_text(data.valid)[0])
    return data


def _datasets(
    data: DataConfig, texts: list[str], seed: int, tokenizer: Tokenizer
) -> tuple[TokenDataset, TokenDataset]:
    if data.data:
        train = prepare(data.data, tokenizer, data.cache, exclude=data.valid)
        log(str(train.counts))
        if not data.valid:
            return hold_out(train)
    else:
        train = TokenDataset.from_texts(texts, tokenizer)
    if data.valid:
        return train, prepare(data.valid, tokenizer, data.cache)
    held_out = generated(HELD_OUT_STORIES, seed, start=data.stories)
    return train, TokenDataset.from_texts(held_out, tokenizer)


def _suits(name: str, model: ModelConfig, tokenizer: Tokenizer) -> bool:
    """Whether a model of this shape can learn all of a task; logs why if it cannot."""
    too_long = fits(tokenizer, pairs(name, "train"), model.context)[1]
    if too_long:
        log(
            f"{name}: left out, {len(too_long)} of its 70 training pairs exceed the context of "
            f"{model.context} (train it with --tasks {name})"
        )
    elif name in _NEEDS_TWO_BLOCKS and model.n_layer == 1 and model.position == "rotary":
        log(
            f"{name}: left out, one block with rotary positions cannot learn when to stop "
            f"(try --tasks {name} --n-layer 2)"
        )
        return False
    return not too_long


def _examples(
    names: list[str], tokenizer: Tokenizer, context: int
) -> list[tuple[list[int], list[int]]]:
    """The training pairs of the tasks as tokens; logs the pairs that are too long."""
    examples = []
    for name in names:
        fitting, too_long = fits(tokenizer, pairs(name, "train"), context)
        if too_long:
            numbers = ", ".join(str(each.i) for each in too_long)
            log(
                f"{name}: {len(too_long)} of 70 training pairs exceed the context of {context} "
                f"and are left out: i = {numbers}"
            )
        examples += [encode_pair(tokenizer, each) for each in fitting]
    return examples


def measured_text(
    settings: Settings | None, tokenizer: Tokenizer, config: EvalConfig
) -> TokenDataset:
    """The text to evaluate on: --data, the validation text of a run with these settings, or
    generated stories."""
    if config.data is not None:
        text, validation = find_text(config.data)
        return prepare(validation or text, tokenizer, DataConfig().cache)
    if settings is not None:
        return _validation_data(settings, tokenizer)
    return TokenDataset.from_texts(generated(HELD_OUT_STORIES, 1), tokenizer)


def _validation_data(settings: Settings, tokenizer: Tokenizer) -> TokenDataset:
    data, seed = _with_files(settings.data), settings.train.seed
    if data.valid:
        return prepare(data.valid, tokenizer, data.cache)
    return _datasets(data, [], seed, tokenizer)[1]
