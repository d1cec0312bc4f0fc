"""train.py: a whole run, from flags to results."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from minislm import checkpoint
from minislm.cli.data import TrainingData, prepare_data
from minislm.cli.run_folder import lock_run, new_run, newest_run
from minislm.cli.run_settings import Settings, resumed, settings_from
from minislm.config import SampleConfig
from minislm.dataset import Batches
from minislm.evaluation import exact_match, text_loss
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.optimizer import FastMuon
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.optimizer import make_optimizers
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.reporting.plots import plot_losses
from minislm.reporting.tables import model_entry, task_table
from minislm.runtime.device import keep_freed_memory, select_device, select_dtype, set_threads
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import write_json
from minislm.runtime.process_group import ProcessGroup
from minislm.tokenizer import Tokenizer
from minislm.training import Progress, Trainer

_BAR = "{percentage:3.0f}%|{bar}| {elapsed} {postfix}"


def train(flags: argparse.Namespace) -> None:
    """Run the training that the flags describe, and print the results.

    Raises:
        UserError: a flag cannot be satisfied, another process trains in the folder, the disk or the
            memory is full, or the loss is not finite. A run that has begun can be resumed.
    """
    resume = getattr(flags, "resume", False)
    if resume:
        run = Path(flags.out) if getattr(flags, "out", None) else newest_run()
        settings = resumed(flags, run)
    else:
        run, settings = None, settings_from(flags)
    set_threads(settings.run.threads)
    keep_freed_memory()
    device, group = select_device(settings.run.device), ProcessGroup()
    if run is None and group.is_main:
        run = new_run(settings.run.preset, settings.run.out)
    run = group.broadcast(run)
    with lock_run(run) if group.is_main else nullcontext():
        try:
            _train(run, settings, resume, device, group)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise UserError(
                "the memory is full; close other programs and give --resume, or start a new run "
                f"with a smaller --batch-tokens than {settings.train.batch_tokens}"
            ) from error


def _out_of_memory(error: Exception) -> bool:
    """PyTorch reports it in several ways, some of them only in the message."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        each in str(error) for each in words
    )


def _train(
    run: Path, settings: Settings, resume: bool, device: torch.device, group: ProcessGroup
) -> None:
    dtype = select_dtype(settings.run.dtype, device)
    known = Tokenizer.load(run) if resume and (run / "tokenizer.json").is_file() else None
    if not group.is_main:
        group.barrier()  # the first process makes the token files, the others find them
    data = prepare_data(settings, known)
    if group.is_main:
        group.barrier()
    trainer = make_trainer(run, settings, data, device, dtype, group)
    if resume:
        trainer.restore(checkpoint.load_state(run))
    elif group.is_main:
        write_json(run / "run.json", trainer.settings)
    log(_introduction(run, settings, data, trainer.model, device, dtype))
    begin = time.perf_counter()
    with _interrupts(trainer), _ProgressBar(trainer, settings.run.samples) as bar:
        progress = trainer.train(bar.update)
    if trainer.stopped:
        log(f"stopped at step {progress.step}; resume with: python train.py --resume --out {run}")
        raise KeyboardInterrupt
    group.close()
    if not group.is_main:
        return
    log(f"trained for {(time.perf_counter() - begin) / 60:.1f} minutes; evaluating the weights")
    report(run, data, progress, settings, device)


def make_trainer(
    run: Path, settings: Settings, data: TrainingData, device: torch.device, dtype: torch.dtype,
    group: ProcessGroup,
) -> Trainer:  # fmt: skip
    """The trainer of a run, with the fast versions of loss, optimizer and saving."""
    torch.manual_seed(settings.train.seed)
    config = replace(settings.model, vocab_size=data.tokenizer.vocab_size)
    model = Transformer(config).to(device)
    batches = Batches(
        data.train, data.examples, context=config.context, eot_id=data.tokenizer.eot_id,
        batch_tokens=settings.train.batch_tokens, seed=settings.train.seed,
        repeats=_repeats(data, settings.data.pair_share), loss_on=settings.data.loss_on,
        rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    return Trainer(
        model, batches, settings.train, run=run, valid=data.valid, tokenizer=data.tokenizer,
        settings=settings.as_dict() | {"tasks": data.tasks}, dtype=dtype, group=group,
        # Held-out stories say nothing about pairs: a run that learns pairs keeps its last weights.
        keep_best=not data.examples,
        loss_and_grad=FastLossAndGrad(model, compiled=settings.run.compile),
        optimizers=make_optimizers(model, settings.train, dtype, FastMuon),
        save=save,
    )  # fmt: skip


def _repeats(data: TrainingData, share: float) -> int:
    """How often an epoch has every pair, so that pairs are this fraction of its tokens."""
    pair_tokens = sum(len(prompt) + len(completion) for prompt, completion in data.examples)
    wanted = data.train.n_tokens * share / (1 - share)
    return max(1, round(wanted / pair_tokens)) if pair_tokens else 1


class _ProgressBar:
    """A bar, a line per evaluation, and some short samples during the training."""

    def __init__(self, trainer: Trainer, samples: int):
        self.trainer, self.samples = trainer, samples
        self.sampled = int(trainer.done() * samples)
        self.evaluated = len(trainer.progress.history)
        hidden = None if trainer.group.is_main else True  # None: unless on a terminal
        self.bar = tqdm(total=100, unit="%", bar_format=_BAR, dynamic_ncols=True, disable=hidden)

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def update(self) -> None:
        """After every step."""
        p, done = self.trainer.progress, self.trainer.done()
        left = p.seconds / done * (1 - done) if done else 0.0
        self.bar.n = min(100.0, round(100 * done, 1))
        self.bar.set_postfix_str(
            f"loss {p.loss:.3f}, {p.tokens / max(p.seconds, 1e-9):,.0f} tokens/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        if not self.trainer.group.is_main:
            return
        for record in p.history[self.evaluated :]:
            self._write(
                f"{done:4.0%}  step {record['step']:>6,}  train loss {record['train_loss']:.3f}  "
                f"valid loss {record['valid_loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte"
            )
        self.evaluated = len(p.history)
        if self.samples and (self.sampled + 1) / self.samples <= done < 1:
            self.sampled += 1
            self._write(f"      sample: {self._sample()} ...")

    def _sample(self) -> str:
        trainer, training = self.trainer, self.trainer.model.training
        settings = SampleConfig(max_new_tokens=48, seed=trainer.config.seed)
        text = FastSampler(trainer.model, trainer.tokenizer).generate([""], settings)[0]
        trainer.model.train(training)
        return " ".join(text.split())

    def _write(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)


@contextmanager
def _interrupts(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C ends the run after the current step; a second one ends it at once."""

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if trainer.stopped:
            raise KeyboardInterrupt
        trainer.stopped = True

    try:
        previous = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _introduction(
    run: Path, settings: Settings, data: TrainingData, model: Transformer, device: torch.device,
    dtype: torch.dtype,
) -> str:  # fmt: skip
    source = settings.data.data or "generated"
    tasks = f", {len(data.examples)} pairs of {', '.join(data.tasks)}" if data.tasks else ""
    return "\n".join(
        (
            f"text    {len(data.train):,} stories ({source}), {data.train.n_tokens:,} tokens{tasks}",
            f"model   {model.n_parameters():,} parameters, {model.config.n_layer} block(s), "
            f"vocabulary {model.config.vocab_size:,}, context {model.config.context}",
            f"machine {device.type}, {str(dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} thread(s)",
            f"run     {run}",
        )
    )


def report(
    run: Path, data: TrainingData, progress: Progress, settings: Settings, device: torch.device
) -> None:
    """Print loss and exact match of the weights kept, two stories, and what to try next."""
    model, tokenizer = load(run, device=str(device))
    sampler = FastSampler(model, tokenizer)
    loss = text_loss(model, data.valid, tokenizer.eot_id, progress=True)
    scores = exact_match(sampler, data.tasks)
    if data.tasks:
        print(task_table(scores), end="\n\n")
    print(
        f"validation: {loss.nats_per_token:.3f} nats per token, perplexity {loss.perplexity:.1f}, "
        f"{loss.bits_per_byte:.3f} bits per byte",
        end="\n\n",
    )
    samples = SampleConfig(max_new_tokens=256, temperature=0.7)
    for seed, text in enumerate(sampler.generate(["", ""], samples, seeds=[1, 2])):
        print(f"--- story {seed + 1} ---\n{text.strip()}\n")
    plot = plot_losses(run)
    print(f"run folder: {run}" + (f" (loss curve: {plot})" if plot else ""))
    print(
        f'try next:   python sample.py --model {run} --prompt "Once upon a time"\n'
        f"            python eval.py --model {run}"
    )
    if settings.run.json:
        entry = model_entry(model.n_parameters(), loss, scores)
        entry |= {"steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds}
        write_json(settings.run.json, {"models": {str(run): entry}})
