"""eval.py --score: the scores of several models, and how far the scores can be trusted."""

from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import fmean, median_high

from minislm.cli.config import EvalConfig, MachineConfig
from minislm.cli.data import generated
from minislm.cli.open_model import open_model, read_prompts
from minislm.cli.run_settings import Settings
from minislm.corpus.read import read_stories
from minislm.corpus.words import normalizer
from minislm.pretrained.hub import find_text
from minislm.reporting.tables import markdown_table
from minislm.runtime.errors import log
from minislm.runtime.files import write_json
from minislm.scoring import validation
from minislm.scoring.config import ScoreConfig
from minislm.scoring.grading import ModelScores, score_model
from minislm.scoring.judge import AGES, CRITERIA, Judge, Judgement
from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.prompts import BEGINNINGS
from minislm.scoring.rules import Measures, measure


def score(
    sources: Sequence[str], config: ScoreConfig, evaluated: EvalConfig, machine: MachineConfig
) -> None:
    """Score every model; print the tables that the options request, and write the file of --json.
    UserError: a model or a file that is missing, or a judge that does not answer."""
    grader = open_model(config.grader, machine)[1:] if config.grader else None
    shown = validation.SHOWN
    if config.human:
        agreements, weights = validation.agreement(validation.read_human(config.human), grader)
        shown = validation.shown(agreements)
        rows = [(d, *row, "yes" if d in shown else "no") for d, row in agreements.items()]
        print(_table(("rank correlation", *validation.COLUMNS, "shown"), rows))
        print("weights of the dimensions, fitted to all prompts:", weights)
    if not sources and config.human:
        return  # no model to score was named
    judge = config.judge and Judge(*config.judge.split("#", 1), budget=config.judge_budget)
    prompts = read_prompts([], config.prompt_file)[0] if config.prompt_file else BEGINNINGS
    models, judged = [], {}
    for source in sources or [None]:
        name, model, tokenizer = open_model(source, machine)
        log(f"scoring {name}: {config.samples} texts")
        index = _training_text(name, evaluated.data)
        models.append(score_model(name, model, tokenizer, samples=config.samples, prompts=prompts,
                                  index=index, grader=grader))  # fmt: skip
        judged[name] = [(judgement, measure(*text)) for text in models[-1].texts
                        if judge and (judgement := judge.judge(*text))]  # fmt: skip
    print(score_table(models, shown))
    names = dict.fromkeys(name for each in models for name in each.raw)
    rows = [(n.replace("_", " "), *(each.raw.get(n, "-") for each in models)) for n in names]
    print(_table(("measure", *(each.name for each in models)), rows, digits=3))
    if judge:
        print(judge_table(judged))
    if machine.json:
        named = {m.name: {d: dict(zip(("mean", "low", "high"), v)) for d, v in m.scores.items()}
                 | {"questions": m.questions} for m in models}  # fmt: skip
        write_json(machine.json, {"models": named})


def _training_text(name: str, data: str | None) -> NgramIndex | None:
    """20,000 stories of --data or of the text that run.json names; None if that is not known."""
    settings = Settings.read(name)
    words = normalizer(settings.data.normalize if settings else "none")
    if data := data or (settings and settings.data.data):
        return NgramIndex(map(words, islice(read_stories(find_text(data)[0]), 20_000)))
    stories = generated(settings.data.stories, settings.train.seed) if settings else ()
    return settings and NgramIndex(map(words, stories))


def _table(head: Sequence[str], rows: Iterable[Sequence], digits: int = 2) -> str:
    """A table of texts, numbers, and tuples of a value and its interval."""
    forms = {str: "{}", float: f"{{:.{digits}f}}", tuple: "{:.2f} ({:.2f} to {:.2f})"}
    cells = [[forms[type(v)].format(*(v if isinstance(v, tuple) else [v])) for v in row]
             for row in rows]  # fmt: skip
    return markdown_table(head, cells)


def score_table(models: Sequence[ModelScores], shown: Sequence[str]) -> str:
    """The dimensions that are shown, of the models, the best in the first dimension first."""
    best = sorted(models, key=lambda each: -each.scores[shown[0]][0])
    rows = [(each.name, *(each.scores[d] for d in (*shown, "questions"))) for each in best]
    return _table(("model", *shown, "questions"), rows)


def judge_table(judged: dict[str, list[tuple[Judgement, Measures]]]) -> str:
    """The judge's mean ratings of each model, and their rank correlations with our scores."""
    rows = []
    for name, pairs in judged.items():
        means = [fmean(getattr(j, each) for j, _ in pairs) if pairs else "-" for each in CRITERIA]
        age = AGES[median_high(j.age for j, _ in pairs)] if pairs else "no usable answer"
        rows.append((name, *means, age, str(len(pairs))))
    pairs = [pair for each in judged.values() for pair in each]
    if len(pairs) > 2:
        values = [[[getattr(each, c) for each in side] for side in zip(*pairs)] for c in CRITERIA]
        correlations = (validation.spearman(*each) for each in values)
        rows.append(("correlation with our scores", *correlations, "-", str(len(pairs))))
    return _table(("judge", *CRITERIA, "age", "texts"), rows)
