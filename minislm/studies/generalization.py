"""The verdict: what each subject answers on D_train and D_test, and which rule it learned.

Every subject and seed is asked the 70 pairs it was shown, the 30 it was not, and the shown ones
again with the prompt disturbed. The answers are kept, so that the report can say which heuristic
gives the same wrong ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minislm.config import TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import Answer, answers, text_loss
from minislm.fast.sampler import FastSampler
from minislm.studies.baselines import HEURISTICS, DummyModel
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import FINE_TUNING, fine_tune_on_pairs
from minislm.studies.variants import (
    HELD_OUT,
    SHAPES,
    SHORT,
    SLOW,
    SUBJECTS,
    Subject,
    freeze,
    halves,
    make_tokenizer,
    model_of,
    of_model,
    pretrain,
    pretrained_seed,
    texts_of,
)
from minislm.tasks import TASKS, Pair, fits, pairs
from minislm.tokenizer import Tokenizer

DUMMIES = (0.0, 0.3, 1.0)
CONTEXT = 512  # of every subject; longer pairs are asked of nobody
# Fine-tuning ends at a loss at which D_train is learned (an answer in unary has hundreds of tokens
# that are nearly certain), and after so many steps at the latest.
_UNTIL = {"unary": 0.002}
_STEPS = {"unary": 400, "*": 600}
_LOSS, _MOST = 0.01, 300  # for any other task
_PRETRAINING = {"tinystories-1m": 1200}  # steps, of half as many tokens
_SHOTS = 5  # pairs in a few-shot prompt


def plan(config: StudyConfig) -> list[list[dict[str, Any]]]:
    """The tokenizer; what is pre-trained and the baselines; then every subject, task and seed.

    A subject that is not trained answers alike for every seed: it is asked once for each model.
    """
    seeds = config.seeds or (2 if config.quick else 8)
    subjects = SUBJECTS[:3] if config.quick else SUBJECTS
    subjects += tuple(each for source in config.models for each in of_model(source))
    tasks = config.only or (("copy", "parity") if config.quick else tuple(TASKS))
    steps = 60 if config.quick else 800
    starts = {
        (s.shape, s.text, pretrained_seed(s, seed))
        for s in subjects for seed in range(seeds) if s.text
    }  # fmt: skip
    first = [
        {"kind": "pretrain", "shape": shape, "text": text, "seed": seed,
         "steps": steps if config.quick else _PRETRAINING.get(shape, steps)}
        for shape, text, seed in sorted(starts, key=lambda s: (s[0] not in _PRETRAINING, s))
    ]  # fmt: skip
    names = [f"dummy {p:g}" for p in DUMMIES] + list(HEURISTICS)
    first += [{"kind": "baseline", "name": name, "task": task} for name in names for task in tasks]
    asked = [
        {"kind": "subject", "subject": asdict(s) | {"tasks": None}, "task": task, "seed": seed}
        for s in subjects for seed in range(seeds)
        for task in (["*"] if s.together else [t for t in tasks if t in s.tasks])
        if s.adapt == "fine-tuned" or seed == pretrained_seed(s, seed) * bool(s.text)
    ]  # fmt: skip
    return [[{"kind": "tokenizer"}], first, asked]


def work(job: dict[str, Any], folder: Path) -> Any:
    """Do one job; see `plan`."""
    if job["kind"] == "tokenizer":
        return {"vocabulary": make_tokenizer(folder).vocab_size}
    if job["kind"] == "pretrain":
        return pretrain(job["shape"], job["text"], job["seed"], job["steps"], folder)
    if job["kind"] == "baseline":
        return _baseline(job["name"], job["task"], Tokenizer.load(folder / "tokenizer"))
    subject = Subject(**job["subject"])
    return _ask(subject, list(SHORT) if job["task"] == "*" else [job["task"]], job["seed"], folder)


def _baseline(name: str, task: str, tokenizer: Tokenizer) -> dict[str, Any]:
    asked, _ = fits(tokenizer, pairs(task), CONTEXT)
    if name.startswith("dummy"):
        model = DummyModel(tokenizer, float(name.split()[1]), known=pairs(task), context=CONTEXT)
    else:
        model = HEURISTICS[name](tokenizer, known=pairs(task), context=CONTEXT)
    said = dict(zip(asked, answers(FastSampler(model, tokenizer), asked)))
    return {split: _right(said, [p for p in asked if p.split == split])
            for split in ("train", "test")} | {"said": {p.i: vars(said[p]) for p in asked}}  # fmt: skip


def _ask(subject: Subject, tasks: Sequence[str], seed: int, folder: Path) -> dict[str, Any]:
    """Fine-tune a subject on the pairs of tasks (or not), and ask it each task."""
    model, tokenizer = model_of(subject, seed, folder)
    context = min(CONTEXT, model.config.context)
    fitting = {task: fits(tokenizer, pairs(task), context)[0] for task in tasks}
    split = {task: halves(subject, task, seed, fitting[task]) for task in tasks}
    stories = TokenDataset.from_texts(texts_of("plain", 1_000_000, HELD_OUT), tokenizer)
    row: dict[str, Any] = {"before": text_loss(model, stories, tokenizer.eot_id).bits_per_byte}
    if subject.adapt == "fine-tuned":
        freeze(model, subject.trained)
        faster = subject.rate * (1 if subject.text or subject.shape not in SHAPES else 3)
        rates = {k: v * faster if "rate" in k else v for k, v in FINE_TUNING.items()}
        name = "*" if subject.together else tasks[0]
        steps = min(_STEPS.get(name, _MOST), _MOST if subject.shape in SLOW else 1000)
        row["steps"], row["loss"] = fine_tune_on_pairs(
            model, tokenizer, [p for shown, _ in split.values() for p in shown],
            TrainConfig(seed=seed, **rates), steps, loss_on=subject.loss_on,
            until=_UNTIL.get(name, _LOSS) if subject.loss_on == "completion" else 0.0,
        )  # fmt: skip
        row["after"] = text_loss(model, stories, tokenizer.eot_id).bits_per_byte
    row["tasks"] = {
        task: _ask_task(model, tokenizer, subject, *split[task]) | {"fitting": len(fitting[task])}
        for task in tasks
    }
    return row


def _ask_task(
    model: Any, tokenizer: Tokenizer, subject: Subject, shown: list[Pair], held: list[Pair]
) -> dict[str, Any]:
    """Right answers and questions: of pairs shown, held out, and disturbed; and what was said."""
    groups = {"train": shown, "test": held, **disturbed(shown)}
    if subject.adapt == "few-shot":
        before = "".join(f"{p.prompt}{p.answer}\n" for p in shown[-_SHOTS:])
        groups = {name: [_behind(before, p) for p in each] for name, each in groups.items()}
    groups = {name: fits(tokenizer, each, model.config.context)[0] for name, each in groups.items()}
    everything = [pair for each in groups.values() for pair in each]
    said = dict(zip(everything, answers(FastSampler(model, tokenizer), everything)))
    if subject.adapt == "few-shot":  # a shot ends with a line, not with the end of text
        said = {pair: _first_line(answer) for pair, answer in said.items()}
    row: dict[str, Any] = {name: _right(said, each) for name, each in groups.items()}
    return row | {"said": {pair.i: vars(said[pair]) for pair in groups["test"]}}


def disturbed(shown: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Questions that a rule survives and a list of cases may not: see each name.

    wording: the prompt in small letters behind "please,". spaces: twice as many. beyond: every
    third number from 101 to 200 (unary and count grow too long).
    """
    task = shown[0].task
    found = {
        "wording": [_prompt(p, f"Please, {p.prompt[0].lower()}{p.prompt[1:]}") for p in shown],
        "spaces": [_prompt(p, p.prompt.replace(" ", "  ")) for p in shown],
    }
    if task not in ("unary", "count"):
        found["beyond"] = [Pair(task, i, *TASKS[task](i)) for i in range(101, 201, 3)]
    return found


def _prompt(pair: Pair, prompt: str) -> Pair:
    return dataclasses.replace(pair, prompt=prompt)


def _behind(before: str, pair: Pair) -> Pair:
    return _prompt(pair, before + pair.prompt)


def _first_line(answer: Answer) -> Answer:
    line, newline, _ = answer.text.partition("\n")
    return Answer(line, finished=bool(newline) or answer.finished)


def _right(said: dict[Pair, Answer], asked: Sequence[Pair]) -> list[int]:
    return [sum(said[pair] == Answer(pair.answer, True) for pair in asked), len(asked)]
