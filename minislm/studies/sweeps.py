"""Three sweeps: studies that vary one setting of a base run at a time, with a few seeds per value.

To compare another value, add it to the tuple of its setting in HYPERPARAMETERS, DATA or WORDS."""

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from minislm.config import ModelConfig, SampleConfig, TrainConfig
from minislm.evaluation import exact_match
from minislm.fast.sampler import FastSampler
from minislm.interpret.activations import class_of_characters
from minislm.model import Transformer
from minislm.reporting.intervals import of_mean
from minislm.reporting.plots import bars, dots, lines
from minislm.reporting.tables import markdown_table
from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.rules import measure, split_beginning
from minislm.stories.generate import Story, generate
from minislm.stories.lexicon import WORD_CLASSES, classify
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import FINE_TUNING, train_in_memory, train_on_stories
from minislm.studies.runner import Result, Row, Study, Trial
from minislm.studies.variants import TEXTS, random_weights, story_texts, study_tokenizer
from minislm.tasks import pairs
from minislm.tokenizer import Tokenizer

Settings = dict[str, Any]
Values = dict[str, tuple[Any, ...]]  # of every setting; the first is that of the base run
Results = list[Result]  # of one value, for each seed
Axes = dict[str, dict[Any, Results]]  # by setting and value, where several values were compared

HELD_OUT, CLASS_STORIES, CONTINUATIONS = 200, 300, 60  # held-out stories, by study; texts
TUNING_STEPS = 300  # at most


def sweep(
    values: Values, quick: Values, steps: tuple[int, int],
    train: Callable[[Settings, int, int, Path], Result],
    describe: Callable[[Axes, Path], str],
) -> Study:  # fmt: skip
    """A study of a base run, and of runs that differ from it in one setting.
    With --quick, the values are `quick`, or else the base run's. `steps` of training are given
    without and with it. `train` takes settings, seed, steps and the study's folder; `describe`
    writes its plots into the folder and returns Markdown."""

    def plan(config: StudyConfig) -> list[list[Trial]]:
        small = {name: quick.get(name, each[:1]) for name, each in values.items()}
        axes = small if config.quick else values
        base = {name: each[0] for name, each in axes.items()}
        runs = [base, *(base | {name: value} for name, each in axes.items() for value in each[1:])]
        seeds = range(config.seeds or (2 if config.quick else 3))
        return [[{"kind": "run", "settings": run, "seed": seed, "steps": steps[config.quick]}
                 for run in runs for seed in seeds]]  # fmt: skip

    def report(rows: list[Row], folder: Path) -> str:
        base, axes = rows[0]["trial"]["settings"], defaultdict(lambda: defaultdict(list))
        for row in rows:
            for name, value in row["trial"]["settings"].items():
                if row["trial"]["settings"] == base | {name: value}:
                    axes[name][value].append(row["result"])
        varied = {name: results for name, results in axes.items() if len(results) > 1}
        seeds = len({row["trial"]["seed"] for row in rows})
        return (
            f"{seeds} seeds per run; means with Student's 95 % intervals, and a star where these "
            "do not overlap with the first row's. Base run: "
            f"{', '.join(f'{name} {value}' for name, value in base.items())}. "
        ) + describe(varied, folder)

    return Study(plan, {"run": train}, report)


def interval(results: Results, key: str) -> tuple[float, float, float]:
    """The mean of a value over the seeds and its interval, which is infinite for one seed."""
    return of_mean([result[key] for result in results])


def table(
    first: str, rows: dict[Any, Results], columns: dict[str, str], intervals: Collection[str] = ()
) -> str:
    """A Markdown table of means over the seeds: `columns` are keys of the results and the formats
    of their means, `intervals` those that are shown with their interval, and with a star if it does
    not overlap the one of the first row."""

    def cell(results: Results, key: str) -> str:
        mean, low, high = interval(results, key)
        _, base_low, base_high = interval(next(iter(rows.values())), key)
        star = " *" * (low > base_high or high < base_low)
        if columns[key].endswith("%"):
            low, high = max(0.0, low), min(1.0, high)
        mean, low, high = (format(each, columns[key]) for each in (mean, low, high))
        return f"{mean} ({low} to {high}){star}" if key in intervals else mean

    head = (first, *(key.replace("_", " ") for key in columns))
    lines = ([str(name), *(cell(rows[name], key) for key in columns)] for name in rows)
    return markdown_table(head, list(lines))


def describe_runs(axes: Axes, columns: dict[str, str], labels: dict[str, str], folder: Path) -> str:
    """The best value of each setting, a table of all runs, and a plot of each key of `labels`."""
    best, runs = [], {"base": next(iter(next(iter(axes.values())).values()))}
    base = interval(runs["base"], "bits_per_byte")[0]
    for name, values in axes.items():
        means = {value: interval(results, "bits_per_byte")[0] for value, results in values.items()}
        value = min(means, key=means.get)
        best.append([name, ", ".join(map(str, means)), str(value), f"{means[value]:.4f}"])
        runs |= {f"{name} {value}": values[value] for value in list(values)[1:]}
    runs = {name: [each | {"difference": each["bits_per_byte"] - base} for each in results]
            for name, results in runs.items()}  # fmt: skip
    plots = [dots([(name, *interval(results, key)) for name, results in runs.items()], label,
                  folder / f"{key}.png", interval(runs["base"], key)[0])
             for key, label in labels.items()]  # fmt: skip
    head = ("setting", "values, base first", "best", "bits per byte")
    return "\n".join((markdown_table(head, best), table("run", runs, columns, labels), *plots))


# --- hyperparameters: which value of each gives the lowest loss at equal compute? -----------------

HYPERPARAMETERS: Values = {
    "learning_rate": (7e-3, 2e-3, 2e-2), "matrix_rate": (0.02, 0.007, 0.06),
    "batch_tokens": (4096, 2048, 8192), "stories": (6000, 750, 3000),  # fewer: more epochs
    "optimizer": ("muon", "adamw"), "weight_decay": (0.1, 0.0, 0.5), "dropout": (0.0, 0.1),
    "n_layer": (1, 2, 4), "width": (128, 64, 256), "n_head": (4, 1, 8),
    "vocabulary": (1024, 512, 2048),
}  # fmt: skip
BASE: Settings = {name: values[0] for name, values in HYPERPARAMETERS.items()}


def train_at_equal_compute(settings: Settings, seed: int, steps: int, folder: Path) -> Result:
    """Train on plain stories with as many operations as the base run needs for `steps`."""
    stories = story_texts("plain", 0, settings["stories"])
    held_out = story_texts("plain", 0, HELD_OUT, start=1_000_000)
    tokenizer = Tokenizer.train(stories, settings["vocabulary"], "single")
    budget = steps * BASE["batch_tokens"] * _multiplications(_model(BASE, BASE["vocabulary"]))
    torch.manual_seed(seed)
    model = _model(settings, tokenizer.vocab_size)
    steps = max(1, round(budget / settings["batch_tokens"] / _multiplications(model)))
    names = ("learning_rate", "matrix_rate", "optimizer", "weight_decay", "batch_tokens")
    config = TrainConfig(seed=seed, **{name: settings[name] for name in names})
    return train_on_stories(model, tokenizer, stories, held_out, config, steps)


def _model(settings: Settings, vocab_size: int) -> Transformer:
    options = {name: settings[name] for name in ("n_layer", "width", "n_head", "dropout")}
    return Transformer(ModelConfig(n_kv_head=0, vocab_size=vocab_size, **options))


def _multiplications(model: Transformer) -> int:
    """Per token, by the weights; those of attention scores are few at this size."""
    return sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)


def describe_hyperparameters(axes: Axes, folder: Path) -> str:
    columns = {"bits_per_byte": ".4f", "difference": "+.4f", "steps": ",.0f", "epochs": ".1f",
               "parameters": ",.0f"}  # fmt: skip
    labels = {"bits_per_byte": "bits per byte on held-out stories"}
    return "All runs have equal compute.\n\n" + describe_runs(axes, columns, labels, folder)


# --- data: how do the amount and the quality of the text change loss, stories and transfer? -------

CORRUPTIONS = {"agreement_errors": (0.0, 0.5, 1.0), "shuffled": (0.0, 0.5, 1.0),
               "duplicates": (0.0, 0.5, 0.9)}  # fmt: skip
DATA = {"size": (1.0, 0.01, 0.03, 0.1, 0.3), "stories": (6000,), **CORRUPTIONS}
SCORES, TASKS = ("grammar", "creativity", "consistency", "copied"), ("copy", "successor")


def train_on_data(settings: Settings, seed: int, steps: int, folder: Path) -> Result:
    """Train on stories with numbers, as nothing transfers without; then the loss on clean stories,
    the scores of continuations, and the accuracy after fine-tuning on pairs."""
    tokenizer, config = study_tokenizer(folder), TrainConfig(seed=seed)
    count = round(settings["stories"] * settings["size"])
    rates = {name: settings[name] for name in CORRUPTIONS} | {"numbers": TEXTS["numbers"][0]}
    stories = [story.text for story in generate(count, seed, **rates)]
    held_out = story_texts("numbers", 1_000_000, HELD_OUT)
    model = random_weights("two blocks", seed, tokenizer)
    result = train_on_stories(model, tokenizer, stories, held_out, config, steps)
    beginnings = [split_beginning(story.text)[0] for story in generate(CONTINUATIONS, 1_000_000)]
    sampling = SampleConfig(max_new_tokens=300, temperature=0.7)
    texts = FastSampler(model, tokenizer).generate(beginnings, sampling, range(CONTINUATIONS))
    index = NgramIndex(stories)
    scores = [measure(begin, text, index.rouge_2(text)) for begin, text in zip(beginnings, texts)]
    result |= {name: float(np.mean([getattr(each, name) for each in scores])) for name in SCORES}
    config = replace(config, **FINE_TUNING)
    for task in TASKS:
        tuned, most = copy.deepcopy(model), min(TUNING_STEPS, 3 * steps)
        train_in_memory(tuned, tokenizer, pairs(task, "train"), config, most)
        correct, questions = exact_match(FastSampler(tuned, tokenizer), [task])[task].test
        result[task] = correct / questions
    return result | {"transfer": sum(result[task] for task in TASKS) / len(TASKS)}


def describe_data(axes: Axes, folder: Path) -> str:
    columns = {"tokens": ",.0f", "epochs": ".1f", "bits_per_byte": ".3f"}
    columns |= dict.fromkeys(SCORES, ".2f") | dict.fromkeys(("transfer", *TASKS), ".0%")
    labels = {"bits_per_byte": "bits per byte", "transfer": "accuracy on D_test after fine-tuning"}
    text = ["Two blocks. Loss on clean held-out stories; scores and part copied of continuations "
            "(see `eval.py --score`); transfer: exact match on D_test after fine-tuning.\n",
            describe_runs(axes, columns, labels, folder)]  # fmt: skip
    for key, label in labels.items():
        curve = sorted((interval(results, "tokens")[0], *interval(results, key))
                       for results in axes["size"].values())  # fmt: skip
        text.append(lines({"size": curve}, "tokens", label, folder / f"size_{key}.png", log=True))
    return "\n".join(text)


# --- word classes: what loss and accuracy have nouns, verbs, adjectives and numbers? --------------

# How stories are selected from three times as many: the first ones, or those with the largest
# fraction of a class. The last balance adds stories that use numbers.
BALANCES = ("as they come", "more adjectives", "more numbers", "more nouns", "numbers in use")
WORDS = {"balance": BALANCES, "stories": (4000,)}
QUICK_WORDS = {"balance": BALANCES[:2], "stories": (600,)}
FORMATS = {"loss": ".3f", "accuracy": ".0%", "tokens": ",.0f", "fraction": ".1%"}
Text = list[tuple[str, str]]  # parts and their classes


def train_on_balance(settings: Settings, seed: int, steps: int, folder: Path) -> Result:
    """Train on stories, and evaluate by class; then the same with the `sentence` task."""
    tokenizer, config = study_tokenizer(folder), TrainConfig(seed=seed)
    model = random_weights("one block", seed, tokenizer)
    stories, held_out = select(**settings, seed=seed), list(generate(CLASS_STORIES, 1_000_000))
    texts = ([story.text for story in each] for each in (stories, held_out))
    train_on_stories(model, tokenizer, *texts, config, steps)
    rows = [([tokenizer.eot_id], parts(story)) for story in held_out]
    result = by_class(model, tokenizer, rows, "held-out stories")
    config = replace(config, **FINE_TUNING)
    train_in_memory(model, tokenizer, pairs("sentence", "train"), config, TUNING_STEPS)
    for split in ("train", "test"):
        rows = [(tokenizer.encode(p.prompt), classify(p.answer)) for p in pairs("sentence", split)]
        result |= by_class(model, tokenizer, rows, f"sentence, D_{split}")
    classes = np.concatenate([encode(parts(story), tokenizer)[1] for story in stories])
    fractions = np.bincount(classes, minlength=len(WORD_CLASSES)) / len(classes)
    return result | {"fraction of the training tokens": dict(zip(WORD_CLASSES, fractions.tolist()))}


def select(balance: str, stories: int, seed: int) -> list[Story]:
    if not balance.startswith("more "):
        return list(generate(stories, seed, numbers=0.5 if balance == "numbers in use" else 0.0))
    wanted = balance.removeprefix("more ").removesuffix("s")
    return sorted(generate(3 * stories, seed), reverse=True, key=lambda story: np.mean(
        [word.word_class == wanted for word in story.words]))[:stories]  # fmt: skip


def parts(story: Story) -> Text:
    return [(word.before + word.text, word.word_class) for word in story.words]


def encode(text: Text, tokenizer: Tokenizer) -> tuple[list[int], np.ndarray]:
    """The tokens of a text and its end of text, and the place in WORD_CLASSES of each: the class of
    the word that its last character is in, so that the losses of all classes add up."""
    whole = tokenizer.backend.encode("".join(part for part, _ in text), add_special_tokens=False)
    classes = class_of_characters(text)
    found = [classes[end - 1] for _, end in whole.offsets]
    return whole.ids + [tokenizer.eot_id], np.array([*found, WORD_CLASSES.index("other")])


@torch.inference_mode()
def by_class(
    model: Transformer, tokenizer: Tokenizer, rows: Iterable[tuple[list[int], Text]], title: str
) -> dict[str, dict[str, float]]:
    """Loss (nats per token), accuracy and tokens by class of texts after prompts, as they fit."""
    totals = np.zeros((len(WORD_CLASSES), 3))
    for prompt, text in rows:
        ids, classes = encode(text, tokenizer)
        tokens_T = torch.tensor((prompt + ids)[: model.config.context + 1])
        logits_TV = model(tokens_T[None, :-1])[0, len(prompt) - 1 :].float()
        targets_T = tokens_T[len(prompt) :]
        nats_T = F.cross_entropy(logits_TV, targets_T, reduction="none").double()
        correct_T = logits_TV.argmax(-1) == targets_T
        values = torch.stack((nats_T, correct_T, torch.ones_like(nats_T)), 1)
        np.add.at(totals, classes[: len(values)], values.numpy())
    totals[:, :2] /= np.maximum(1, totals[:, 2:])
    return {f"{name} on {title}": dict(zip(WORD_CLASSES, column.tolist()))
            for name, column in zip(("loss", "accuracy", "tokens"), totals.T)}  # fmt: skip


def describe_word_classes(axes: Axes, folder: Path) -> str:
    """Tables of every figure by class and balance, and a plot of the loss on held-out stories."""
    text, balances = ["One block of width 128.\n"], axes["balance"].items()
    for title in axes["balance"]["as they come"][0]:
        rows = {name: [each[title] for each in results] for name, results in balances}
        columns = dict.fromkeys(WORD_CLASSES, FORMATS[title.split()[0]])
        shown = table("balance", rows, columns, WORD_CLASSES if "loss" in title else ())
        text.append(f"## {title[0].upper()}{title[1:]}\n\n{shown}")
        if title == "loss on held-out stories":
            series = {name: [interval(rows[name], c) for c in WORD_CLASSES] for name in rows}
            text.append(bars(WORD_CLASSES, series, "nats per token", folder / "classes.png"))
    return "\n".join(text)


QUICK_DATA = {"size": (1.0, 0.1), "agreement_errors": (0.0, 1.0), "stories": (800,)}
STUDIES = {
    "word-classes": sweep(WORDS, QUICK_WORDS, (400, 40), train_on_balance, describe_word_classes),
    "data": sweep(DATA, QUICK_DATA, (300, 25), train_on_data, describe_data),
    "hyperparameters": sweep(HYPERPARAMETERS, {"n_layer": (1, 2), "optimizer": ("muon", "adamw")},
                             (150, 20), train_at_equal_compute, describe_hyperparameters),
}  # fmt: skip
