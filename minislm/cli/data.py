"""Training and validation text of a run as tokens, from files, the hub or the story generator."""

import os
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from minislm.cli.config import DataConfig, EvalConfig
from minislm.cli.fine_tune import read_pairs
from minislm.cli.run_settings import Settings, task_names
from minislm.config import ModelConfig
from minislm.corpus.clean import Counts, clean_stories
from minislm.corpus.prepare import CacheError, prepare, train_tokenizer
from minislm.corpus.read import cut, fingerprint, read_stories, validation_files
from minislm.corpus.words import WordTokenizer, normalizer
from minislm.dataset import TokenDataset, hold_out
from minislm.pretrained.hub import find_text
from minislm.runtime.errors import UserError, log
from minislm.stories.generate import generate
from minislm.tasks import Pair, encode_pair, fits, pairs
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
    pairs: tuple[list[Pair], list[Pair]]  # of --pairs: to train, and held out


def generated(count: int, seed: int, start: int = 0) -> list[str]:
    """The texts of generated stories."""
    return [story.text for story in generate(count, seed, start=start)]


def prepare_data(settings: Settings, tokenizer: Tokenizer | None = None) -> TrainingData:
    """Text and pairs as tokens; a tokenizer is trained on them unless one is given."""
    data, names = _with_files(settings.data), task_names(settings.data)
    texts = [] if data.data else generated(data.stories, settings.train.seed)
    file_pairs = read_pairs(data.pairs) if data.pairs else ([], [])
    named = {name: pairs(name, "train") for name in names} | {"pairs": file_pairs[0]}
    words = normalizer(data.normalize)  # refused here if its library is missing
    if tokenizer is None:
        trained_on = [pair for each in named.values() for pair in each]
        pair_texts = [text for pair in trained_on for text in (pair.prompt, pair.answer)]
        if data.data:
            options = data.vocab, data.digits, data.cache, data.normalize
            tokenizer = train_tokenizer(data.data, pair_texts, *options)
        else:
            tokenizer = Tokenizer.train([*map(words, texts), *pair_texts], data.vocab, data.digits)
    encoder = WordTokenizer(tokenizer, data.normalize)
    train, valid = _datasets(data, texts, settings.train.seed, encoder)
    model, auto = settings.model, data.tasks == "auto" and not data.pairs
    found = {name: _examples(name, named[name], model, tokenizer, auto) for name in named}
    tasks = [name for name in names if found[name] is not None]
    examples = [each for name in (*tasks, "pairs") for each in found[name]]
    return TrainingData(tokenizer, train, valid, tasks, examples, file_pairs)


def _with_files(data: DataConfig) -> DataConfig:
    """Settings with texts of the hub as files; without --valid, the validation text of --data."""
    if data.data:
        text, its_valid = find_text(data.data)
        valid = data.valid or its_valid or validation_files(text)
        data = replace(data, data=text, valid=valid)
    return replace(data, valid=data.valid and find_text(data.valid)[0])


def with_content(settings: Settings) -> Settings:
    """Settings of a run with absolute paths of its texts and the hashes of their content.
    UserError: a text is not there, or is not the one that the run began with."""
    data, files = settings.data, _with_files(settings.data)
    texts = [text for text in (data.pairs, files.data, files.valid) if text]
    content = tuple(fingerprint(text, data.cache) for text in texts)
    if data.content not in ((), content):
        names = " or ".join(texts)
        raise UserError(f"{names} is not the text of this run; restore it, or give --data NEW")
    paths = {name: getattr(data, name) for name in ("pairs", "data", "valid")}
    local = {n: os.path.abspath(path) for n, path in paths.items() if path in texts}
    return replace(settings, data=replace(data, content=content, **local))


def _datasets(
    data: DataConfig, texts: list[str], seed: int, tokenizer: Tokenizer
) -> tuple[TokenDataset, TokenDataset]:
    """Training and validation text; `texts` are the generated stories, where there is no --data."""
    if not data.data:
        return TokenDataset.from_texts(texts, tokenizer), _validation_text(data, seed, tokenizer)
    train = prepare(data.data, tokenizer, data.cache, exclude=data.valid)
    log(str(train.counts))
    if not data.valid:
        return _hold_out(train, data.data, tokenizer)
    log(f"validation text: {data.valid}")
    return train, _validation_text(data, seed, tokenizer)


def _validation_text(data: DataConfig, seed: int, tokenizer: Tokenizer) -> TokenDataset:
    """The text of --valid, with a line of what was dropped or changed; else generated stories."""
    if not data.valid:
        texts = generated(HELD_OUT_STORIES, seed, start=data.stories)
        return TokenDataset.from_texts(texts, tokenizer)
    try:
        text = prepare(data.valid, tokenizer, data.cache)
    except CacheError as error:
        log(f"{error}; continuing without a cache")
        with TemporaryDirectory() as folder:
            text = prepare(data.valid, tokenizer, folder)
            text = replace(text, tokens=text.tokens.copy(), path=None)  # in memory
    if ":" in text.counts:
        log(f"{data.valid}: {' '.join(text.counts.split())}")
    return text


def _hold_out(text: TokenDataset, source: str, tokenizer: Tokenizer) -> tuple[TokenDataset, ...]:
    """Training and validation part. A single document is cut, so that its end can be held out."""
    if len(text) == 1:
        [story] = clean_stories(read_stories(source), Counts())
        text = TokenDataset.from_texts(cut(story, len(story) * 19 // 20), tokenizer)
    return hold_out(text)


def _examples(
    name: str, trained: list[Pair], model: ModelConfig, tokenizer: Tokenizer, auto: bool
) -> list[tuple[list[int], list[int]]] | None:
    """The training pairs of a task as tokens; logs those that are too long, and leaves them out.
    With --tasks auto, None for a task of which a model of this shape cannot learn every pair."""
    fitting, too_long = fits(tokenizer, trained, model.context)
    if too_long:
        exceed = f"{len(too_long)} of {len(trained)} pairs exceed the context of {model.context}"
        if auto:
            log(f"{name}: left out, {exceed} (train it with --tasks {name})")
            return None
        numbers = ", ".join(str(each.i) for each in too_long)
        log(f"{name}: {exceed} and are left out: i = {numbers}")
    elif auto and name in _NEEDS_TWO_BLOCKS and (model.n_layer, model.position) == (1, "rotary"):
        log(f"{name}: left out, one block with rotary positions cannot learn when to stop "
            f"(try --tasks {name} --n-layer 2)")  # fmt: skip
        return None
    return [encode_pair(tokenizer, each) for each in fitting]


def measured_text(
    settings: Settings | None, tokenizer: Tokenizer, config: EvalConfig
) -> TokenDataset:
    """The text to evaluate on: --data, the validation text of a run, or generated stories."""
    data, seed = DataConfig(data=config.data, stories=0), 1
    if config.data is None and settings is not None:
        data, seed = settings.data, settings.train.seed
    tokenizer = WordTokenizer(tokenizer, settings.data.normalize if settings else "none")
    files = _with_files(data)
    source = files.valid or files.data
    if source and data.content and fingerprint(source, data.cache) != data.content[-1]:
        log(f"{source} has changed since the run began; these are the figures of the new text")
    text = _validation_text(replace(files, valid=source), seed, tokenizer)
    held_out = config.data is None and files.data and not files.valid
    return _hold_out(text, files.data, tokenizer)[1] if held_out else text
