"""train.py: a whole run, from flags to results."""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minislm import checkpoint
from minislm.checkpoint import METRICS, STATE
from minislm.cli.config import EvalConfig
from minislm.cli.data import TrainingData, measured_text, prepare_data, with_content
from minislm.cli.fine_tune import start_model
from minislm.cli.run_settings import Settings, lock_run, new_run, newest_run, resumed, settings_from
from minislm.dataset import Batches
from minislm.evaluation import exact_match, score, text_loss
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.optimizer import FastMuon
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.optimizer import make_optimizers
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.reporting.plots import plot_losses
from minislm.reporting.tables import model_entry, task_table
from minislm.runtime.device import keep_freed_memory, select_device, select_dtype
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import write_json
from minislm.runtime.process_group import ProcessGroup
from minislm.studies.curriculum import Curriculum
from minislm.tasks import pairs
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer, validation_subset

_BAR = "{percentage:3.0f}%|{bar}| {elapsed} {postfix}"
# PyTorch reports full memory in several ways, and on a CPU only in the message.
_OUT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")


def train(flags: argparse.Namespace) -> None:
    """Run the training that the flags describe, and print the results.
    UserError: a flag cannot be satisfied, another process trains in the folder, the disk or the
    memory is full, or the loss is not finite. A run that has begun can be resumed."""
    if os.path.exists(getattr(flags, "init_from", "")):  # a run may be resumed from another folder
        flags.init_from = os.path.abspath(flags.init_from)
    run, out = None, getattr(flags, "out", None)
    if getattr(flags, "resume", False) and (not out or Path(out, "run.json").exists()):
        run = Path(out) if out else newest_run(STATE, "run.json")
    settings = with_content(resumed(flags, run) if run else settings_from(flags))
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    keep_freed_memory()
    group = ProcessGroup()
    if run is None and group.is_main:
        name = "fine-tuned" if settings.run.init_from else settings.run.preset
        run = new_run(name, settings.run.out)
    run = group.broadcast(run)
    try:
        with lock_run(run) if group.is_main else nullcontext():
            _train(run, settings, group)
    except (MemoryError, RuntimeError) as error:
        if "gloo" in str(error) or isinstance(error, torch.distributed.DistError):
            raise UserError("another process has ended, see its message; give --resume") from error
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        smaller = f"with a smaller --batch-tokens than {settings.train.batch_tokens}"
        advice = f"close other programs and give --resume, or start a new run {smaller}"
        raise UserError(f"the memory is full; {advice}") from error


def _train(run: Path, settings: Settings, group: ProcessGroup) -> None:
    device, file, model, known = select_device(settings.run.device), run / "run.json", None, None
    begun = settings.run.resume and any((run / each).exists() for each in (STATE, METRICS))
    if not group.is_main:
        group.barrier()  # the first process makes the token files, the others find them
    elif not begun:  # a run that is killed from now on is resumed from step 0
        write_json(file, settings.as_dict() | {"tasks": []})
    if source := settings.run.init_from:
        start = run if begun else source
        model, known = start_model(start, str(device), settings.run.trainable)
        settings = replace(settings, model=model.config)
    elif begun and (run / "tokenizer.json").is_file():
        known = Tokenizer.load(run)
    data = prepare_data(settings, known)
    if group.is_main:
        group.barrier()
    trainer = _make_trainer(run, settings, data, model, device, group)
    if begun:
        trainer.restore(checkpoint.load_state(run))
    if group.is_main and (not begun or settings.data != Settings.read(run).data):
        write_json(file, trainer.settings)
    if source and not begun:
        trainer.evaluate()  # the weights kept are never worse than those of the start
    _log_introduction(settings, data, trainer)
    begin = time.perf_counter()
    with _signals(trainer), _ProgressBar(trainer, settings.run.samples) as bar:
        trainer.train(bar.after_step)
    if trainer.stopped or trainer.stop:
        step = trainer.progress.step
        log(f"stopped at step {step}; resume with: python train.py --resume --out {run}")
        raise KeyboardInterrupt(trainer.stop or signal.SIGINT)
    group.close()
    if group.is_main:
        log(f"trained for {(time.perf_counter() - begin) / 60:.1f} minutes; evaluating the weights")
        _report(trainer, data, settings.run.json, source)


def _make_trainer(
    run: Path, settings: Settings, data: TrainingData, model: Transformer | None,
    device: torch.device, group: ProcessGroup,
) -> Trainer:  # fmt: skip
    """The trainer of a run, with the fast versions of loss, optimizer and saving."""
    torch.manual_seed(settings.train.seed % 2**64)  # it takes no larger one
    shape, t = replace(settings.model, vocab_size=data.tokenizer.vocab_size), settings.train
    if shape.position == "run":
        shape = replace(shape, run_tokens=data.tokenizer.digit_ids)
    model = model or Transformer(shape).to(device)
    dtype, part = select_dtype(settings.run.dtype, device), settings.data.pair_share
    pair_tokens = sum(len(prompt) + len(completion) for prompt, completion in data.examples)
    repeats = data.train.n_tokens * part / (1 - part) / pair_tokens if pair_tokens else 1
    options: dict[str, Any] = dict(
        context=model.config.context, eot_id=data.tokenizer.eot_id, seed=t.seed,
        batch_tokens=t.batch_tokens, loss_on=settings.data.loss_on, rank=group.rank,
    )  # fmt: skip
    if t.curriculum:
        batches = Curriculum(data.examples, model, part=t.curriculum,
                             progress=lambda: trainer.done(), **options)  # fmt: skip
        loss_and_grad = batches.loss_and_grad
    else:
        batches = Batches(data.train, data.examples, repeats=max(1, round(repeats)),
                          world_size=group.world_size, **options)  # fmt: skip
        loss_and_grad = FastLossAndGrad(model, compiled=settings.run.compile)
    trainer = Trainer(
        model, batches, t, run=run, valid=data.valid, tokenizer=data.tokenizer,
        settings=settings.as_dict() | {"tasks": data.tasks}, dtype=dtype, group=group,
        # Held-out stories do not measure pairs: a run that learns pairs keeps its last weights.
        keep_best=not data.examples,
        loss_and_grad=loss_and_grad, optimizers=make_optimizers(model, t, dtype, FastMuon),
        save=save,
    )  # fmt: skip
    return trainer


class _ProgressBar(tqdm):
    """A bar, a line per evaluation, and some short samples during the training."""

    def __init__(self, trainer: Trainer, samples: int):
        main = trainer.group.is_main  # disable=None: unless on a terminal
        super().__init__(total=100, bar_format=_BAR, dynamic_ncols=True, disable=not main or None)
        self.trainer, self.samples = trainer, samples if main else 0
        self.sampled = int(trainer.done() * samples)
        self.evaluated = len(trainer.progress.history)

    def after_step(self) -> None:
        p, done = self.trainer.progress, min(self.trainer.done(), 1.0)
        self.n = round(100 * done, 1)
        minutes, seconds = divmod(int(p.seconds / done * (1 - done)) if done else 0, 60)
        speed = f"{p.tokens / max(p.seconds, 1e-9):,.0f} tokens/s"
        self.set_postfix_str(f"loss {p.loss:.3f}, {speed}, {minutes}:{seconds:02d} left")
        for record in p.history[self.evaluated :]:
            self.write(
                f"{done:4.0%}  step {record['step']:>6,}  train loss {record['train_loss']:.3f}  "
                f"valid loss {record['valid_loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte",
                file=sys.stderr,
            )
        self.evaluated = len(p.history)
        if self.samples and (self.sampled + 1) / self.samples <= done < 1:
            self.sampled += 1
            sampler = FastSampler(self.trainer.model, self.trainer.tokenizer)
            (text,) = sampler.generate([""], max_new_tokens=48, seed=self.trainer.config.seed)
            self.trainer.model.train()
            self.write(f"      sample: {' '.join(text.split())} ...", file=sys.stderr)


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C, SIGTERM or SIGHUP ends the run after the current step; a second Ctrl-C at once."""

    def on_signal(number: int, frame: object) -> None:
        if trainer.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stop = number

    others = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    heeded = {each for each in others if signal.getsignal(each) != signal.SIG_IGN}  # as of nohup
    previous = {each: signal.signal(each, on_signal) for each in heeded | {signal.SIGINT}}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _log_introduction(settings: Settings, data: TrainingData, trainer: Trainer) -> None:
    model, source = trainer.model, settings.data.data or "generated"
    names = ", ".join([*data.tasks, *filter(None, [settings.data.pairs])])
    pairs = f", {len(data.examples)} pairs of {names}" if names else ""
    device, dtype = model.embedding.weight.device.type, str(trainer.dtype).removeprefix("torch.")
    log(f"text    {len(data.train):,} stories ({source}), {data.train.n_tokens:,} tokens{pairs}")
    log(f"model   {model.n_parameters():,} parameters, {model.config.n_layer} block(s), vocabulary "
        f"{model.config.vocab_size:,}, context {model.config.context}")  # fmt: skip
    log(f"machine {device}, {dtype}, {torch.get_num_threads()} thread(s)\nrun     {trainer.run}")


def _changes(
    model: Transformer, data: TrainingData, trainer: Trainer, source: str
) -> dict[str, tuple[float, float]]:
    """Bits per byte before and after a fine-tuning, on about 40,000 tokens of the new validation
    text, and of the old one if `source` is a run."""
    tokenizer, before = data.tokenizer, trainer.progress.history[0]["bits_per_byte"]
    changes = {"new text": (before, trainer.progress.best)}
    try:
        if settings := Settings.read(source):
            text = validation_subset(measured_text(settings, tokenizer, EvalConfig()))
            models = (load(source, device=str(model.embedding.weight.device))[0], model)
            losses = [text_loss(each, text, tokenizer.eot_id).bits_per_byte for each in models]
            changes["old text"] = (losses[0], losses[1])
    except UserError as error:
        log(f"the loss on the text of {source} is not measured: {error}")
    return changes


def _report(trainer: Trainer, data: TrainingData, json: str | None, source: str | None) -> None:
    """Print loss and exact match of the weights kept, two stories, and what to try next."""
    run, progress = trainer.run, trainer.progress
    model, tokenizer = load(run, device=str(trainer.model.embedding.weight.device))
    sampler = FastSampler(model, tokenizer)
    loss = None
    if not trainer.config.curriculum:  # else no text was trained on
        loss = text_loss(model, data.valid, tokenizer.eot_id, progress=True)
    scores = exact_match(sampler, data.tasks)
    if data.pairs[0]:
        scores["pairs"] = score(sampler, *(split[:1000] for split in data.pairs))
    changes = _changes(model, data, trainer, source) if source else {}
    plot = plot_losses(run)
    if json:  # before printing, which may fail
        entry = model_entry(model.n_parameters(), loss, scores)
        entry |= {"before_and_after": changes} if changes else {}
        entry |= {"steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds}
        write_json(json, {"models": {str(run): entry}})
    if scores:
        print(task_table(scores), end="\n\n")
    for text, (before, after) in changes.items():
        print(f"{text}: {before:.3f} bits per byte before, {after:.3f} after")
    prompt, other = "Once upon a time", "train.py --tasks unary"
    if loss is None:
        prompt, other = pairs(data.tasks[0], "test")[2].prompt, "eval.py --study generalization"
    else:
        print(f"validation: {loss.nats_per_token:.3f} nats per token, perplexity "
              f"{loss.perplexity:.1f}, {loss.bits_per_byte:.3f} bits per byte\n")  # fmt: skip
        stories = sampler.generate(["", ""], seeds=[1, 2], max_new_tokens=256, temperature=0.7)
        for number, text in enumerate(stories, 1):
            print(f"--- story {number} ---\n{text.strip()}\n")
    print(f"run folder: {run}" + (f" (loss curve: {plot})" if plot else ""))
    print(f'try next:   python sample.py --model {run} --prompt "{prompt}"')
    print(f"            python eval.py --model {run}\n            python {other}")
