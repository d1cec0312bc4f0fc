"""Scores of a model: it continues many prompts, and the rules measure the continuations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch

from minislm.config import SampleConfig
from minislm.evaluation import token_losses
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.reporting.intervals import bootstrap, clopper_pearson
from minislm.runtime.errors import UserError
from minislm.scoring.ngrams import NgramIndex, distinct, self_bleu, words_of
from minislm.scoring.prompts import BEGINNINGS, QUESTIONS
from minislm.scoring.rules import DIMENSIONS, instruction, measure
from minislm.stories.generate import generate
from minislm.tokenizer import Tokenizer

_SEED = 4_000_000  # of the stories whose headers are given as instructions
_INSTRUCT_EVERY = 8  # one text in so many continues an instruction
_SELF_BLEU, _COPIED = 40, 50  # texts of the two slow measures


@dataclass(frozen=True)
class ModelScores:
    """A model's continuations, their scores and the raw measures."""

    name: str
    texts: list[tuple[str, str]]  # prompt, continuation
    scores: dict[str, tuple[float, ...]]  # mean, low, high; of "questions" too
    questions: dict[str, tuple[int, int]]  # kind -> right, number
    raw: dict[str, float]


def score_model(
    name: str, model: Transformer, tokenizer: Tokenizer, *, samples: int,
    prompts: Sequence[str] = BEGINNINGS, index: NgramIndex | None = None,
    grader: tuple[Transformer, Tokenizer] | None = None,
) -> ModelScores:  # fmt: skip
    """Sample continuations of prompts and of instructions, and measure them. index: of the training
    text, to find copies. grader: a model whose log-likelihood of the texts is measured.
    UserError: most prompts, or all instructions, exceed half of the model's context."""
    examples = (story for story in generate(20 * samples, _SEED) if "Words" in story.header)
    headers = {story.instruct.removesuffix(story.text): story
               for story in islice(examples, max(1, samples // _INSTRUCT_EVERY))}  # fmt: skip
    wanted = [prompts[k % len(prompts)] for k in range(samples - len(headers))] + list(headers)
    fitting = [p for p in wanted if len(tokenizer.prompt_ids(p)) < model.config.context // 2]
    if len(fitting) < samples // 2 or headers.keys().isdisjoint(fitting):
        raise UserError(f"{name}: most prompts or all instructions exceed half its context of "
                        f"{model.config.context} tokens; take another model")  # fmt: skip
    settings = SampleConfig(max_new_tokens=300, temperature=0.7)
    new = FastSampler(model, tokenizer).generate(fitting, settings, seeds=range(len(fitting)))
    texts = list(zip(fitting, new))
    stories = [(prompt, text) for prompt, text in texts if prompt not in headers]
    measures = [measure(p, text, index.rouge_2(text) if index else 0.0) for p, text in stories]
    values = {d: [getattr(each, d) for each in measures] for d in DIMENSIONS[:-1]}
    values["instruction"] = [
        instruction(story.required, story.features if "Features:" in header else (), text)
        for header, text in texts if (story := headers.get(header))]  # fmt: skip
    scores = {d: (fmean(each), *bootstrap(each)) for d, each in values.items()}
    questions = answer(model, tokenizer, QUESTIONS)
    right, number = (sum(each) for each in zip(*questions.values()))
    low, high = clopper_pearson(right, number)
    scores["questions"] = (10 * right / number, 10 * low, 10 * high)
    hidden = {*DIMENSIONS, "" if index else "copied"}
    raw = {name: fmean(getattr(each, name) for each in measures)
           for name in vars(measures[0]) if name not in hidden}  # fmt: skip
    if index:
        raw["longest_copied"] = fmean(index.longest_copied(text) for _, text in stories[:_COPIED])
    tokens = [words_of(text) for _, text in texts]
    raw |= {"distinct_2": distinct(tokens, 2), "distinct_4": distinct(tokens, 4),
            "self_BLEU": self_bleu(tokens[:_SELF_BLEU])}  # fmt: skip
    raw |= {f"{kind}_questions": right / number for kind, (right, number) in questions.items()}
    if grader:
        raw["nats_per_byte_under_the_grader"] = -fmean(likelihoods(*grader, stories))
    return ModelScores(name, texts, scores, questions, raw)


def answer(
    model: Transformer, tokenizer: Tokenizer, questions: dict[str, list[list[str]]]
) -> dict[str, tuple[int, int]]:
    """Right answers and questions of each kind. The answer has the highest pointwise mutual
    information: log-likelihood given the prompt minus that after the end of text. Ties lose."""
    found, start = {}, tokenizer.prompt_ids("")
    for kind, rows in questions.items():
        ids = [[_split(tokenizer, prompt, e) for e in endings] for prompt, *endings in rows]
        pmi = [[_nats(model, *pair) - _nats(model, start, pair[1]) for pair in row] for row in ids]
        found[kind] = (sum(right > max(wrong) for right, *wrong in pmi), len(rows))
    return found


def likelihoods(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]
) -> list[float]:
    """The log-likelihood of each continuation given its prompt, in nats per byte.
    Of what exceeds the context, the end of the prompt and the start of the continuation count."""
    values, context = [], model.config.context
    for prompt, text in texts:
        before, ids = _split(tokenizer, prompt, text)
        after = ids[: context + 1 - len(before[-context:])]
        if len(after) < len(ids):
            text = tokenizer.continuation(before, after)
        values.append(_nats(model, before, after) / max(1, len(text.encode())))
    return values


def _split(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of its continuation (Llama's tokenizers add a space to a text)."""
    before, whole = tokenizer.prompt_ids(prompt), tokenizer.prompt_ids(prompt + text)
    start, after = whole[: len(before)], whole[len(before) :]
    return before, after if start == before else tokenizer.encode(text)


def _nats(model: Transformer, before: list[int], after: list[int]) -> float:
    """The log-likelihood of ids behind others, of which the last that fit in the context count."""
    ids = (before + after)[-model.config.context - 1 :]
    tokens = torch.tensor([ids], device=model.embedding.weight.device)
    losses = token_losses(model, tokens[:, :-1], tokens[:, 1:], torch.float32)[0]
    return -float(losses[len(losses) - len(after) :].sum())
