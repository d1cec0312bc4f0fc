"""The generalization study: does a model learn the rule of a task, or a shallow heuristic?

Every variant and seed learns 70 pairs of a task and is evaluated on them, on the 30 pairs held out,
and on the training pairs with a perturbed prompt. RULE is how the report concludes."""

from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minislm.config import TrainConfig
from minislm.evaluation import Answer, answers
from minislm.fast.sampler import FastSampler
from minislm.reporting import intervals, plots, tables
from minislm.studies import variants
from minislm.studies.baselines import CONTEXT, HEURISTICS, DummyModel
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import FINE_TUNING, bits_per_byte, train_in_memory
from minislm.studies.runner import Result, Row, Study, Trial
from minislm.studies.variants import SHAPES, SLOW, VARIANTS, Variant, study_tokenizer
from minislm.tasks import TASKS, Pair, fits, pairs

DUMMIES = {f"dummy {rate:g}": partial(DummyModel, accuracy=rate) for rate in (0.0, 0.3, 1.0)}
PERTURBATIONS = ("other wording", "double spaces", "101 to 200")
# Fine-tuning takes so many steps at most, and ends at a loss (nats per token) at which D_train is
# learned. An answer in unary has hundreds of tokens that are nearly certain.
LIMITS = {"unary": (400, 0.002), "all": (600, 0.01), "other": (300, 0.01)}


def plan(config: StudyConfig) -> list[list[Trial]]:
    """Pre-training and the baselines; then every variant, task and seed.
    A variant that is not fine-tuned is evaluated once for each pre-trained model."""
    seeds = range(config.seeds or (2 if config.quick else 8))
    chosen = [*VARIANTS[: 3 if config.quick else None]]
    chosen += [Variant(f"{source}, {adapt}", source, adapt=adapt) for source in config.models
                 for adapt in ("zero-shot", "few-shot", "fine-tuned")]  # fmt: skip
    tasks = config.only or (("copy", "parity") if config.quick else tuple(TASKS))
    starts = {(v.shape not in SLOW, v.shape, v.text, v.pretrained_seed(seed))
              for v in chosen for seed in seeds if v.text}  # fmt: skip
    first = [
        {"kind": "pretrain", "shape": shape, "text": text, "seed": seed,
         "steps": 60 if config.quick else 800 if fast else 1200}
        for fast, shape, text, seed in sorted(starts)  # the slow ones first
    ]  # fmt: skip
    first += [{"kind": "baseline", "name": name, "task": task}
              for name in (*DUMMIES, *HEURISTICS) for task in tasks]  # fmt: skip
    adapted = [
        {"kind": "variant", **asdict(v), "tasks": part, "seed": seed}
        for v in chosen for seed in seeds
        for part in ([v.tasks] if v.together else [[task] for task in tasks if task in v.tasks])
        if v.adapt == "fine-tuned" or seed == (v.pretrained_seed(seed) if v.text else 0)
    ]  # fmt: skip
    return [first, adapted]


def evaluate_baseline(name: str, task: str, folder: Path) -> Result:
    tokenizer = study_tokenizer(folder)
    model = (DUMMIES | HEURISTICS)[name](tokenizer, known=pairs(task))
    groups = {split: pairs(task, split) for split in ("train", "test")}
    return {"tasks": {task: evaluate(FastSampler(model, tokenizer), groups)}}


def adapt_and_evaluate(seed: int, folder: Path, **variant: Any) -> Result:
    """Fine-tune a variant on its tasks (or not), and evaluate it on each of them."""
    v = Variant(**variant)
    model, tokenizer = v.load(seed, folder)
    limit = min(CONTEXT, model.config.context)
    split = {task: v.split(task, seed, fits(tokenizer, pairs(task), limit)[0]) for task in v.tasks}
    stories = variants.story_texts("plain", 1_000_000, variants.HELD_OUT)
    result: Result = {"before": bits_per_byte(model, tokenizer, stories)}
    if v.adapt == "fine-tuned":
        factor = v.rate if v.text or v.shape not in SHAPES else 3 * v.rate
        options = {k: x * factor if "rate" in k else x for k, x in FINE_TUNING.items()}
        steps, until = LIMITS.get("all" if v.together else v.tasks[0], LIMITS["other"])
        result["steps"], result["loss"] = train_in_memory(
            model, tokenizer, [pair for train, _ in split.values() for pair in train],
            TrainConfig(seed=seed, **options), min(steps, 300) if v.shape in SLOW else steps,
            until=until if v.loss_on == "completion" else 0.0, loss_on=v.loss_on,
        )  # fmt: skip
        result["after"] = bits_per_byte(model, tokenizer, stories)
    sampler, result["tasks"] = FastSampler(model, tokenizer), {}
    for task, (train, test) in split.items():
        groups = {"train": train, "test": test, **perturbed(task, train)}
        examples = train[-5:] if v.adapt == "few-shot" else []
        shots = "".join(f"{pair.prompt}{pair.answer}\n" for pair in examples)
        result["tasks"][task] = evaluate(sampler, groups, shots)
    return result


def perturbed(task: str, train: list[Pair]) -> dict[str, list[Pair]]:
    """Questions that a rule answers, and a list of cases may not: see PERTURBATIONS. The last are
    every third number; in unary, and to count to, they are too long."""
    wording = [replace(p, prompt=f"Please, {p.prompt[0].lower()}{p.prompt[1:]}") for p in train]
    spaces = [replace(p, prompt=p.prompt.replace(" ", "  ")) for p in train]
    numbers = range(101, 201, 3) if task not in ("unary", "count") else ()
    larger = [Pair(task, i, *TASKS[task](i)) for i in numbers]
    return dict(zip(PERTURBATIONS, (wording, spaces, larger)))


def evaluate(sampler: FastSampler, groups: dict[str, list[Pair]], shots: str = "") -> dict:
    """The answers by group of pairs and number; pairs that exceed the context are left out. After
    `shots`, examples before every prompt, an answer ends with its line."""
    kept = {}
    for name, group in groups.items():
        prompted = [replace(pair, prompt=shots + pair.prompt) for pair in group]
        kept[name], _ = fits(sampler.tokenizer, prompted, sampler.model.config.context)
    given = answers(sampler, [pair for group in kept.values() for pair in group])
    if shots:
        given = [Answer(a.text.partition("\n")[0], a.finished or "\n" in a.text) for a in given]
    ordered = iter(given)
    return {name: {pair.i: vars(next(ordered)) for pair in group} for name, group in kept.items()}


LEARNED, FOUND, SHALLOW, EXPLAINED = 0.9, 0.8, 0.2, 0.3  # the thresholds of RULE
RULE = f"""A variant with an accuracy below {LEARNED:.0%} on D_train has not learned the task. \
Otherwise it generalizes if the whole interval of its accuracy on D_test is above {FOUND:.0%}, and \
fails to generalize if it is below {SHALLOW:.0%}; in between, it generalizes in part. A variant \
that fails relies on a heuristic if at least {EXPLAINED:.0%} of its answers on D_test are wrong \
answers of that heuristic. Two variants differ if their intervals do not overlap. An interval \
(95 %) is the wider of Student's over the seeds and Wilson's over all answers.
"""
# What "transferred" has, and the control variant that has it not.
CONTROLS = {"effect of stories": "scratch", "effect of numbers in them": "plain stories",
            "effect of their word order": "shuffled words"}  # fmt: skip


class Accuracy(namedtuple("Accuracy", "mean low high lowest highest")):
    """The mean accuracy over the seeds, its 95 % interval, and its range."""

    def __str__(self) -> str:
        return "{:.0%} [{:.0%}, {:.0%}] ({:.0%} to {:.0%})".format(*self)


class Results:
    """The answers of baselines and variants by name and task, for each seed."""

    def __init__(self, rows: Sequence[Row]):
        self.runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            for task, run in row["result"].get("tasks", {}).items():
                self.runs[row["trial"]["name"], task].append(run)
        self.tasks = [task for task in TASKS if ("majority", task) in self.runs]
        self.names = list(dict.fromkeys(name for name, _ in self.runs))

    def counts(self, name: str, tasks: Iterable[str], group: str) -> list[tuple[int, int]]:
        """Correct answers and questions of a group of pairs, by task and seed."""
        runs = [(task, run[group]) for task in tasks for run in self.runs.get((name, task), [])
                if run.get(group)]  # fmt: skip
        return [(sum(answer == _right(task, i) for i, answer in answers.items()), len(answers))
                for task, answers in runs]  # fmt: skip

    def accuracy(self, name: str, task: str, group: str = "test") -> Accuracy | None:
        """The accuracy on a group of pairs; None if it was not evaluated on any."""
        if not (counts := self.counts(name, [task], group)):
            return None
        rates = [correct / questions for correct, questions in counts]
        return Accuracy(*intervals.of_rates(*zip(*counts)), min(rates), max(rates))

    def agreement(self, variant: str, task: str) -> dict[str, float]:
        """The fraction of the answers on D_test that are wrong answers of each heuristic."""
        given = [each for run in self.runs[variant, task] for each in run["test"].items()]
        own = {name: self.runs[name, task][0] for name in HEURISTICS}
        own = {name: run["train"] | run["test"] for name, run in own.items()}
        return {name: np.mean([answer == own[name][i] != _right(task, i) for i, answer in given])
                for name in HEURISTICS}  # fmt: skip


def _right(task: str, i: str) -> dict[str, Any]:
    return {"text": TASKS[task](int(i))[1], "finished": True}


def report(rows: Sequence[Row], folder: Path) -> str:
    """The report in Markdown; writes its two plots into the folder."""
    found, tuned, pretrained = Results(rows), defaultdict(list), {}
    for trial, result, seconds in (row.values() for row in rows):
        if trial["kind"] == "pretrain":
            name = "{shape}, {text}, seed {seed}".format(**trial)
            pretrained[name] = [result | {"seconds": seconds}]
        elif "after" in result:
            tuned[trial["name"]].append(result)
    tasks, names = found.tasks, found.names
    sections = {
        "Conclusions": RULE + "\n" + _table(
            "task", tasks, ("pairs", "scratch", "transferred", *CONTROLS),
            lambda task, column: conclusion(found, task, column))
        + "\n" + _plot(found, VARIANTS[:4], folder / "pretraining.png"),
        "Accuracy on D_test: mean, 95 % interval (lowest to highest seed)": _table(
            "model", names, tasks, lambda name, task: str(found.accuracy(name, task) or "-"))
        + "\n" + _plot(found, VARIANTS[4:10], folder / "variants.png"),
        "Accuracy on D_train": _table(
            "model", names, tasks, lambda name, task: _rate(found.counts(name, [task], "train"))),
        "Accuracy on all tasks together": _table(
            "model", names, ("train", "test", *PERTURBATIONS),
            lambda name, group: _rate(found.counts(name, tasks, group))),
        "Fraction of the answers on D_test that are wrong answers of a heuristic":
        _agreements(found),
        "Forgetting: bits per byte on plain stories": _means("model", tuned, {
            "before": ".3f", "after": ".3f", "steps": ".0f", "loss": ".4f"}),
        "Pre-training (bits per byte on the same kind of text)": _means("model", pretrained, {
            "parameters": ",.0f", "steps": ",.0f", "train_loss": ".3f", "bits_per_byte": ".3f",
            "seconds": ".0f"}),
    }  # fmt: skip
    return (
        f"{max(map(len, found.runs.values()))} seeds of every variant that is fine-tuned. D_test: "
        "the pairs with i mod 10 in {1, 3, 7}; D_train: the others. `dummy P` is right with "
        "probability P: it tests the evaluator.\n\n"
        + "\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    )


def conclusion(found: Results, task: str, column: str) -> str:
    """By column: the pairs that fit the context (few are a confound), what RULE concludes of a
    variant, or whether "transferred" differs from a control."""
    if column == "pairs":
        run = found.runs["majority", task][0]
        return str(len(run["train"]) + len(run["test"]))
    variant = CONTROLS.get(column, column)
    train, test = found.accuracy(variant, task, "train"), found.accuracy(variant, task)
    transferred = found.accuracy("transferred", task)
    if train is None or test is None or (column in CONTROLS and transferred is None):
        return "-"
    if column in CONTROLS:
        better, worse = transferred.low > test.high, test.low > transferred.high
        effect = "improves" if better else "worsens" if worse else "no significant difference"
        return f"{effect} ({test.mean:.0%} without)"
    if train.mean < LEARNED:
        return f"has not learned the task: {train.mean:.0%} of D_train"
    if test.low >= FOUND or test.high > SHALLOW:
        return f"generalizes{' in part' * (test.low < FOUND)}: {test}"
    agreement = found.agreement(variant, task)
    name = max(agreement, key=agreement.get)
    if agreement[name] >= EXPLAINED:
        return f"relies on a heuristic: {test}; {agreement[name]:.0%} are answers of '{name}'"
    return f"fails to generalize, in a way that no heuristic here describes: {test}"


def _plot(found: Results, variants: Iterable[Variant], path: Path) -> str:
    series = {v.name: [(found.accuracy(v.name, task) or ())[:3] or None for task in found.tasks]
              for v in variants if v.name in found.names}  # fmt: skip
    return plots.bars(found.tasks, series, "accuracy on D_test", path) if series else ""


def _rate(counts: list[tuple[int, int]]) -> str:
    return format(np.divide(*np.sum(counts, 0)), ".0%") if counts else "-"


def _agreements(found: Results) -> str:
    """The variants and tasks of which at least 5 % of the answers agree with a heuristic."""
    lines = []
    for name, task in found.runs:
        accuracy = None if name in (*DUMMIES, *HEURISTICS) else found.accuracy(name, task)
        agreement = found.agreement(name, task).values() if accuracy else [0.0]
        if max(agreement) >= 0.05:
            lines.append([name, task, *(f"{rate:.0%}" for rate in (accuracy.mean, *agreement))])
    return tables.markdown_table(("variant", "task", "accuracy", *HEURISTICS), lines)


def _table(
    first: str, rows: Iterable[str], columns: Iterable[str], cell: Callable[[str, str], str]
) -> str:
    lines = [[row, *(cell(row, column) for column in columns)] for row in rows]
    return tables.markdown_table((first, *columns), lines)


def _means(first: str, rows: dict[str, list[Result]], columns: dict[str, str]) -> str:
    """Means over the seeds: `columns` are keys of the results and their formats."""
    return _table(first, rows, columns, lambda name, key: format(
        np.mean([each[key] for each in rows[name]]), columns[key]))  # fmt: skip


KINDS = dict(pretrain=variants.pretrain, baseline=evaluate_baseline, variant=adapt_and_evaluate)
STUDY = Study(plan, KINDS, report)
