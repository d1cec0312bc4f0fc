"""A whole run, from flags to results: text, tokenizer, pairs, model, loop, and what came of it."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minislm import checkpoint, evaluation
from minislm.pretrained.load import load
from minislm.dataset import Batches, Example
from minislm.config import (
    ModelConfig,
    SampleConfig,
    TrainConfig,
    build,
    to_dict,
)
from minislm.corpus.prepare import TokenFile, learn_tokenizer, prepare
from minislm.runtime.process_group import Team, start, started
from minislm.runtime.device import choose_device, choose_dtype, keep_freed_memory, set_threads
from minislm.runtime.errors import UserError, say
from minislm.runtime.files import write_json
from minislm.pretrained.hub import find_text
from minislm.model import Transformer
from minislm.sampler import Sampler
from minislm.cli.run_settings import Settings, changed, settings_from, task_names
from minislm.stories.generate import generate
from minislm.tasks import encode_pair, fits, pairs
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer, plot_losses

HELD_OUT_STORIES = 400  # generated for validation, beyond those that are trained on
# What one block with rotary positions cannot learn: to stop counting it would have to compare its
# number with the prompt's, whose digits it cannot tell from the digits of its own answer.
_NEEDS_TWO_BLOCKS = {"count"}


def generated_tokens(
    count: int, seed: int, start: int, tokenizer: Tokenizer, cache: str
) -> TokenFile:
    """Generated stories as a token file, found again by their content."""
    stories = generated(count, seed, start)
    key = hashlib.sha256("\0".join(stories).encode()).hexdigest()
    return prepare(lambda: stories, tokenizer, cache, key=key)


def generated(count: int, seed: int, start: int = 0) -> list[str]:
    return [story.text for story in generate(count, seed, start=start)]


@dataclass(frozen=True)
class Corpus:
    """What a run learns from, ready to be batched."""

    tokenizer: Tokenizer
    train: TokenFile
    valid: TokenFile
    tasks: list[str]
    examples: list[Example]


def prepare_corpus(settings: Settings, tokenizer: Tokenizer | None = None) -> Corpus:
    """Text and pairs as tokens; a tokenizer is trained on them unless one is given."""
    settings = _with_files(settings)
    data, context = settings.data, settings.model.context
    names = task_names(data)
    trained_on = [pair for name in names for pair in pairs(name, "train")]
    if tokenizer is None:
        pair_texts = [text for pair in trained_on for text in (pair.prompt, pair.answer)]
        if data.data:
            tokenizer = learn_tokenizer(
                data.data, pair_texts, data.vocab, data.digits, data.cache
            )
        else:
            texts = generated(data.stories, settings.train.seed)
            tokenizer = Tokenizer.train([*texts, *pair_texts], data.vocab, data.digits)
    train, valid = _token_files(settings, tokenizer)
    if data.tasks == "auto":
        names = [name for name in names if _suits(name, settings.model, tokenizer)]
    examples = _examples(names, tokenizer, context)
    return Corpus(tokenizer, train, valid, names, examples)


def _with_files(settings: Settings) -> Settings:
    """The same settings where texts of the hub are files here, with the validation text of --data
    unless --valid names one."""
    data = settings.data
    if data.data:
        text, its_valid = find_text(data.data)
        data = changed(data, data=text, valid=data.valid or its_valid)
    if data.valid:
        data = changed(data, valid=find_text(data.valid)[0])
    return Settings(settings.model, data, settings.train)


def _token_files(settings: Settings, tokenizer: Tokenizer) -> tuple[TokenFile, TokenFile]:
    data, seed = settings.data, settings.train.seed
    if data.data:
        train = prepare(data.data, tokenizer, data.cache, exclude=data.valid)
        say(train.tally)
        if data.valid:
            return train, prepare(data.valid, tokenizer, data.cache)
        return split(train, tokenizer)
    train = TokenFile.from_ids([], 0)
    if data.stories:
        train = generated_tokens(data.stories, seed, 0, tokenizer, data.cache)
    if data.valid:
        return train, prepare(data.valid, tokenizer, data.cache)
    return train, generated_tokens(HELD_OUT_STORIES, seed, data.stories, tokenizer, data.cache)


def split(stories: TokenFile, tokenizer: Tokenizer) -> tuple[TokenFile, TokenFile]:
    """The text without, and only, its last twentieth (one story at least, 2,000 at most)."""
    if len(stories) < 2:
        raise UserError("one story is too few to hold one out; give more text, or --valid FILE")
    border = len(stories) - min(2000, max(1, len(stories) // 20))
    tail = range(border, len(stories))
    n_bytes = sum(len(tokenizer.decode(stories.story(i).tolist()).encode()) for i in tail)
    first = TokenFile(stories.tokens, stories.starts[: border + 1], stories.bytes - n_bytes)
    return first, TokenFile(stories.tokens, stories.starts[border:], n_bytes)


def _suits(name: str, model: ModelConfig, tokenizer: Tokenizer) -> bool:
    """Whether a model of this shape can learn all of a task; says why if it cannot."""
    too_long = fits(tokenizer, pairs(name, "train"), model.context)[1]
    if too_long:
        say(
            f"{name}: left out, {len(too_long)} of its 70 training pairs exceed the context of "
            f"{model.context} (train it with --tasks {name})"
        )
    elif name in _NEEDS_TWO_BLOCKS and model.n_layer == 1 and model.position == "rotary":
        say(
            f"{name}: left out, one block with rotary positions cannot learn when to stop "
            f"(try --tasks {name} --n-layer 2)"
        )
        return False
    return not too_long


def _examples(names: list[str], tokenizer: Tokenizer, context: int) -> list[Example]:
    """The training pairs of the tasks as tokens; names the pairs that are too long."""
    examples = []
    for name in names:
        fitting, too_long = fits(tokenizer, pairs(name, "train"), context)
        if too_long:
            numbers = ", ".join(str(each.i) for each in too_long)
            say(
                f"{name}: {len(too_long)} of 70 training pairs exceed the context of {context} "
                f"and are left out: i = {numbers}"
            )
        examples += [Example(*encode_pair(tokenizer, each)) for each in fitting]
    return examples


def _repeats(corpus: Corpus, share: float) -> int:
    """How often an epoch must show every pair for pairs to be this share of its tokens."""
    pair_tokens = sum(len(e.prompt) + len(e.completion) for e in corpus.examples)
    wanted = corpus.train.n_tokens * share / (1 - share)
    return max(1, round(wanted / pair_tokens)) if pair_tokens else 1


def train(flags: argparse.Namespace) -> None:
    """Run the training that the flags ask for, and print what came of it.

    Raises:
        UserError: what the flags ask for cannot be had, another process trains in the folder, the
            disk or the memory is full, or the loss is no number; a run that was begun can be gone
            on with.
    """
    config = build(TrainConfig, flags)
    resume = config.resume
    run, settings = _resumed(flags) if resume else (None, settings_from(flags))
    set_threads(settings.train.threads)
    keep_freed_memory()
    device = choose_device(settings.train.device)
    if config.processes > 1 and not started():
        sys.exit(start(config.processes, config.threads, [sys.executable, *sys.argv]))
    team = Team()
    if run is None and team.leads:
        run = checkpoint.new_run(settings.train.preset, settings.train.out)
    run = team.agree(run)
    with checkpoint.hold(run) if team.leads else nullcontext():
        try:
            _train(run, settings, resume, device, team)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise UserError(
                "the memory is full; close other programs and give --resume, or start a new run "
                f"with a smaller --batch-tokens than {settings.train.batch_tokens}"
            ) from error


def _out_of_memory(error: Exception) -> bool:
    """torch says it in several ways, some of them only in words."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        each in str(error) for each in words
    )


def _train(
    run: Path, settings: Settings, resume: bool, device: torch.device, team: Team
) -> None:
    dtype = choose_dtype(settings.train.dtype, device)
    known = Tokenizer.load(run) if resume and (run / "tokenizer.json").is_file() else None
    if not team.leads:
        team.agree(None)  # the leader makes the token files, the others find them
    corpus = prepare_corpus(settings, known)
    if team.leads:
        team.agree(None)
    torch.manual_seed(settings.train.seed)
    config = changed(settings.model, vocab_size=corpus.tokenizer.vocab_size)
    model = Transformer(config).to(device)
    batches = Batches(
        corpus.train,
        corpus.examples,
        context=config.context,
        batch_tokens=settings.train.batch_tokens,
        eot_id=corpus.tokenizer.eot_id,
        repeats=_repeats(corpus, settings.data.pair_share),
        loss_on=settings.data.loss_on,
        seed=settings.train.seed,
        rank=team.rank,
        world=team.world,
    )
    kept = settings.as_dict() | {"tasks": corpus.tasks}
    trainer = Trainer(
        run, model, corpus.tokenizer, batches, corpus.valid, settings.train, dtype, kept, team
    )
    if resume:
        trainer.restore(checkpoint.load_state(run))
    elif team.leads:
        write_json(run / "run.json", kept)
    say(_introduction(run, settings, corpus, model, device, dtype))
    begin = time.perf_counter()
    progress = trainer.fit()
    if trainer.stopped:
        say(f"stopped at step {progress.step}; go on with: python train.py --resume --out {run}")
        raise KeyboardInterrupt
    team.leave()
    if not team.leads:
        return
    say(f"trained for {(time.perf_counter() - begin) / 60:.1f} minutes; measuring what it kept")
    report(run, corpus, progress, settings, device)


def _resumed(flags: argparse.Namespace) -> tuple[Path, Settings]:
    """The run to go on with and its settings; what was typed may change the length of it only."""
    typed = vars(flags)
    run = Path(typed["out"]) if typed.get("out") else checkpoint.newest_run()
    kept = Settings.read(run)
    changeable = {
        "resume", "out", "steps", "minutes", "threads", "json", "evals", "samples", "keep",
        "processes",
    }  # fmt: skip
    all_kept = {**to_dict(kept.model), **to_dict(kept.data), **to_dict(kept.train)}
    for name, value in typed.items():
        if name not in changeable and all_kept[name] != value:
            raise UserError(
                f"--{name.replace('_', '-')} {value} differs from {all_kept[name]} of {run}; "
                "a run goes on as it began: leave the flag out, or start a new run"
            )
    return run, Settings(kept.model, kept.data, build(TrainConfig, flags, to_dict(kept.train)))


def _introduction(
    run: Path,
    settings: Settings,
    corpus: Corpus,
    model: Transformer,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    source = settings.data.data or "generated"
    tasks = f", {len(corpus.examples)} pairs of {', '.join(corpus.tasks)}" if corpus.tasks else ""
    return "\n".join(
        (
            f"text    {len(corpus.train):,} stories ({source}), {corpus.train.n_tokens:,} tokens"
            f"{tasks}",
            f"model   {model.n_parameters():,} parameters, {model.config.n_layer} block(s), "
            f"vocabulary {model.config.vocab_size:,}, context {model.config.context}",
            f"machine {device.type}, {str(dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} thread(s)",
            f"run     {run}",
        )
    )


def report(
    run: Path,
    corpus: Corpus,
    progress: Any,
    settings: Settings,
    device: torch.device,
) -> None:
    """What the weights kept can do: loss, exact match, two stories, and what to try next."""
    model, tokenizer = load(run, device=str(device))
    loss = evaluation.text_loss(model, corpus.valid, tokenizer.eot_id, progress=True)
    scores = evaluation.exact_match(model, tokenizer, corpus.tasks)
    if corpus.tasks:
        print(evaluation.task_table(scores), end="\n\n")
    print(
        f"validation: {loss.nats_per_token:.3f} nats per token, perplexity {loss.perplexity:.1f}, "
        f"{loss.bits_per_byte:.3f} bits per byte",
        end="\n\n",
    )
    told = SampleConfig(max_new_tokens=256, temperature=0.7)
    for seed, text in enumerate(Sampler(model, tokenizer).generate(["", ""], told, seeds=[1, 2])):
        print(f"--- story {seed + 1} ---\n{text.strip()}\n")
    picture = plot_losses(run)
    print(f"run folder: {run}" + (f" (loss curve: {picture})" if picture else ""))
    print(
        f'try next:   python sample.py --model {run} --prompt "Once upon a time"\n'
        f"            python eval.py --model {run}"
    )
    if settings.train.json:
        entry = evaluation.as_json(model, loss, scores)
        entry |= {"steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds}
        write_json(settings.train.json, {"models": {str(run): entry}})
