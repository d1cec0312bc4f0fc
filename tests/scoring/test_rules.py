"""The scores: rules on sentences decided by hand, what spoilt texts do, and what people say."""

import random

import numpy as np
import pytest
import torch
from helpers import ROOT, random_model

from minislm.cli import score as scoreboard
from minislm.runtime.errors import UserError
from minislm.scoring import grading
from minislm.scoring import rules as scores
from minislm.scoring.config import ScoreConfig
from minislm.scoring.judge import Verdict
from minislm.scoring.ngrams import Library
from minislm.scoring.prompts import BEGINNINGS, QUESTIONS
from minislm.scoring.rules import instruction, measure, mistakes, names, sentences

SHARED = ROOT.parent / "shared" / "tinystories"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("They was happy.", "agreement"),
        ("She have a red ball.", "agreement"),
        ("Tom go to the park.", "agreement"),
        ("He had three apple.", "agreement"),
        ("The birds was loud.", "agreement"),
        ("There were a dog.", "agreement"),
        ("He ate a apple.", "article"),
        ("She saw an dog.", "article"),
        ("They ran ran home.", "a word twice"),
        ("He ran home. she cried.", "begins small"),
        ("He went to the park and went to the park.", "says it twice"),
        ("She went to the shop. Then she went to the shop.", "says it again"),
        ("She went to the shop and", "not ended"),
    ],
)
def test_a_mistake_is_found(text, mistake):
    assert mistake in set.union(*mistakes("It was a day.", text))


@pytest.mark.parametrize(
    "text",
    [
        "Lily and Ben were happy. They have an apple and a unicorn.",
        '"Did he go home?" asked Tom. "Let Tom go!" she cried.',
        "She had had one bird, then two birds, then three apple pies.",
        "He wished that he could go. It was very very late.",
        "There was one dog. There were two cats. The people were nice.",
        "It took an hour. She put it down. We were there, and you are here.",
    ],
)
def test_good_sentences_have_none(text):
    assert not set.union(*mistakes("It was a day.", text))


def test_the_first_sentence_may_go_on_from_the_prompt():
    assert not set.union(*mistakes("Then she", "ran home. It was fun."))
    assert "begins small" in set.union(*mistakes("It was a day.", "then she ran."))


def test_sentences_keep_what_is_spoken_together():
    text = '"Look! A dog," said Mr. Hill. "Come here!" It came.\nThe end'
    assert "".join(sentences(text)).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert len(sentences('"Stop!" said Tom. He ran.')) == 3


def test_names():
    assert names("Once Lily met Zorbo. Tom ran. He saw Mr Bo.") == ["Lily", "Zorbo", "Tom", "Bo"]


def test_instruction_counts_inflected_forms():
    text = 'The dogs were running. "Hi!" said Tom.'
    assert instruction(["run", "dog"], ["Dialogue"], text) == 10
    assert instruction(["run", "cat"], [], text) == pytest.approx(20 / 3)
    assert instruction(["run"], ["Dialogue"], "He ran and") == pytest.approx(10 / 3)


def test_a_memorised_text_is_not_creative():
    story = "A kind fox named Gus found a silver whistle. He played a song under the old bridge."
    own, copied = measure("It was spring.", story), measure("It was spring.", story, copied=1.0)
    assert own.creativity > 4 and copied.creativity == 0
    assert Library([story]).copied(story) == 1


@pytest.fixture(scope="module")
def spoilt():
    return grading.sensitivity(count=60)


@pytest.mark.parametrize(
    ("how", "meant", "least"),
    [
        ("sentences shuffled", "consistency", 0.5),
        ("names swapped", "consistency", 1.2),
        ("text repeated", "creativity", 1.2),
        ("agreement broken", "grammar", 0.6),
        ("asked words left out", "instruction", 2.0),
    ],
)
def test_each_way_to_spoil_a_text_lowers_what_it_should_and_little_else(spoilt, how, meant, least):
    before, after = spoilt["as told"], spoilt[how]
    fall = {dimension: before[dimension] - after[dimension] for dimension in scores.DIMENSIONS}
    assert fall[meant] >= least
    for dimension, lost in fall.items():
        assert dimension == meant or abs(lost) < 0.3 * fall[meant], dimension


def test_a_text_told_twice_is_out_of_order_no_more_than_told_once():
    prompt = "Once upon a time, there was a girl named Sue."
    text = " She saw a dog. The dog ran to her. Sue was glad. They learned that dogs are kind."
    assert scores.measure(prompt, text).ordered == 1
    assert scores.measure(prompt, text + text).ordered == 1
    backwards = " They learned that dogs are kind. Sue was glad. The dog ran to her. She saw a dog."
    assert scores.measure(prompt, backwards).ordered < 0.5


def test_spearman_is_the_correlation_of_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    ranks = [[(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x] for x in (a, b)]
    assert grading.spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert grading.spearman(a, -a) == pytest.approx(-1) and grading.spearman(a, 0 * a) == 0


def test_a_score_that_does_not_beat_its_baselines_is_not_shown():
    measured = {"grammar": (0.5, 0.4, 0.1), "creativity": (0.2, 0.3, 0.1),
                "consistency": (0.2, 0.1, 0.3)}  # fmt: skip
    assert grading.shown(measured) == {
        "grammar": True, "creativity": False, "consistency": False, "instruction": True}  # fmt: skip
    graded = [graded_of("poor", 2), graded_of("rich", 40)]
    table = grading.table(graded, measured)
    assert "does not beat" in grading.agreement_table(measured)
    for line in table.splitlines()[1:]:
        assert line.split()[2:4] == ["-", "-"] or " - " in line
    best_first = grading.table(graded, grading.MEASURED).splitlines()
    assert best_first[1].startswith("rich") and best_first[2].startswith("poor")


def graded_of(name, different):
    rng = random.Random(0)
    words = "apple stone river cloud drum kite goat lamp rose bell coin leaf".split()
    texts = [("It was a day.", " ".join(rng.choices(words[:different], k=20)) + ".")
             for _ in range(20)]  # fmt: skip
    measures = [measure(*text) for text in texts]
    return grading.Graded(name, texts, measures, [5.0] * 4, {"factual": (1, 2)}, None, None)


def test_questions_and_beginnings_are_sound():
    assert len(BEGINNINGS) == len(set(BEGINNINGS)) == 44
    assert all(text[-1] not in '.!?"' for text in BEGINNINGS)  # cut within a sentence
    for question in QUESTIONS:
        assert len(set(question.endings)) == 3 and question.kind in (
            "factual",
            "reasoning",
            "context",
        )


def test_an_answer_is_the_likeliest_ending_per_byte(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    question = QUESTIONS[0]
    by_hand = []
    for ending in question.endings:
        before, after = tokenizer.prompt_ids(question.prompt), tokenizer.encode(ending)
        logprobs = model(torch.tensor([before + after]))[0].log_softmax(-1)
        total = sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))
        by_hand.append(total / len(ending.encode()))
    texts = [(question.prompt, ending) for ending in question.endings]
    assert grading.likelihoods(model, tokenizer, texts) == pytest.approx(by_hand, rel=1e-4)
    right = int(by_hand[0] == max(by_hand))
    assert grading.answer(model, tokenizer, [question]) == {question.kind: (right, 1)}


def test_a_text_beyond_the_context_counts_as_far_as_it_is_read(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size, context=16)
    read = "The dog ran home."
    for prompt, text in (("One day", read + 20 * " It was big."), (20 * "One day " + "he", read)):
        before = tokenizer.prompt_ids(prompt)[-16:]
        after = tokenizer.encode(text)[: 17 - len(before)]
        logprobs = model(torch.tensor([before + after])[:, :-1])[0].log_softmax(-1)
        told = sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))
        by_hand = told / len(tokenizer.decode(after).encode())
        assert grading.likelihoods(model, tokenizer, [(prompt, text)]) == [
            pytest.approx(by_hand, rel=1e-4)
        ]


def test_eval_scores_models_side_by_side(run_script, tiny_run, tmp_path):
    done = run_script("eval.py", "--score", "--model", tiny_run, "--completions", 16,
                      "--json", "s.json", "--grader", tiny_run, "--threads", 1)  # fmt: skip
    assert done.code == 0, done.err
    assert "grammar" in done.out and "factual questions" in done.out
    assert "ROUGE-2 precision, nearest story read" in done.out
    assert (tmp_path / "s.json").is_file()


def test_what_cannot_be_scored_is_refused(run_script, tmp_path):
    for flags, words in (
        (["--score", "--human", "x.csv"], "--human needs --grader"),
        (["--score", "--judge", "http://x/v1"], "--judge-model"),
    ):
        done = run_script("eval.py", *flags)
        assert done.code == 2 and words in done.err
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    for path in (tmp_path / "bad.csv", tmp_path / "none.csv"):
        with pytest.raises(UserError, match="cannot read human scores"):
            grading.read_human(str(path))


def test_the_judge_is_held_against_the_scores():
    graded = [graded_of("rich", 12)]
    verdicts = [
        Verdict(m.grammar, m.creativity, 10 - m.consistency, "B") for m in graded[0].measures
    ]
    verdicts[3] = None
    table = scoreboard.judge_table(graded, {"rich": verdicts})
    last = table.splitlines()[-1].split()
    assert last[-2] == "1.00" and "19" in table
    assert "no usable answer" in scoreboard.judge_table(graded, {"rich": [None] * 20})
    assert ScoreConfig(judge="http://x", judge_model="m").judge_budget > 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the human scores beside the project")
def test_the_correlations_told_are_those_measured():
    from minislm import load

    rows = grading.read_human(str(SHARED / "human-scores.csv"))
    found = grading.agreement(rows, load(SHARED / "stories260K.bin"))
    for dimension, expected in grading.MEASURED.items():
        assert found[dimension] == pytest.approx(expected, abs=0.006), dimension
