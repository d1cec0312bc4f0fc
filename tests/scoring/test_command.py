"""eval.py --score and its tables."""

import json
import random

import pytest

from minislm.cli.score import judge_table, score_table
from minislm.scoring.config import ScoreConfig
from minislm.scoring.grading import ModelScores
from minislm.scoring.judge import Judgement
from minislm.scoring.rules import DIMENSIONS, measure
from minislm.scoring.validation import COLUMNS, SHOWN


def rows_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def scores_of(name, mean):
    scores = dict.fromkeys((*DIMENSIONS, "questions"), (mean, mean - 1, mean + 1))
    return ModelScores(name, [], scores, {}, {})


def test_the_best_model_is_first_and_a_hidden_dimension_has_no_column():
    models = [scores_of("poor", 2.0), scores_of("rich", 4.5)]
    models[0].scores["creativity"] = (10.0, 10.0, 10.0)
    head, _, first, second = rows_of(score_table(models, ["grammar", "instruction"]))
    assert head == ["model", "grammar", "instruction", "questions"]
    assert first == ["rich", *["4.50 (3.50 to 5.50)"] * 3]
    assert second == ["poor", *["2.00 (1.00 to 3.00)"] * 3]
    _, _, first, second = rows_of(score_table(models, ["creativity", "grammar"]))
    assert (first[0], second[0]) == ("poor", "rich")  # the first column decides


def test_the_judge_is_compared_with_the_scores():
    rng = random.Random(0)
    words = "apple stone river cloud drum kite goat lamp rose bell coin leaf".split()
    texts = [". ".join(" ".join(rng.choices(words, k=5)) for _ in range(4)) for _ in range(20)]
    found = [measure("It was a day.", text) for text in texts]
    pairs = [(Judgement(m.grammar, m.creativity, 10 - m.context, m.plot, "B"), m) for m in found]
    rows = rows_of(judge_table({"rich": pairs, "mute": []}))
    assert rows[0] == ["judge", "grammar", "creativity", "context", "plot", "age", "texts"]
    mean = sum(m.creativity for m in found) / 20
    assert rows[2][0] == "rich" and rows[2][2] == f"{mean:.2f}" and rows[2][5:] == ["4-5", "20"]
    assert rows[3] == ["mute", "-", "-", "-", "-", "no usable answer", "0"]
    assert rows[4][2:] == ["1.00", "-1.00", "1.00", "-", "20"]
    assert len(rows_of(judge_table({"mute": []}))) == 3


def test_models_are_scored_side_by_side(run_script, tiny_run, tmp_path):
    done = run_script("eval.py", "--score", "--model", tiny_run, "--samples", 16,
                      "--json", "s.json", "--grader", tiny_run, "--threads", 1)  # fmt: skip
    assert done.code == 0, done.err
    table = dict(row[:2] for row in rows_of(done.out) if len(row) == 2)
    (head,) = [row for row in rows_of(done.out) if row[0] == "model"]
    assert head == ["model", *SHOWN, "questions"]
    assert {"factual questions", "copied", "longest copied", "self BLEU"} <= table.keys()
    assert float(table["nats per byte under the grader"]) > 0
    (entry,) = json.loads((tmp_path / "s.json").read_text())["models"].values()
    assert set(entry) == {*DIMENSIONS, "questions"}
    right, number = entry["questions"]["factual"]
    assert number == 84 and float(table["factual questions"]) == pytest.approx(right / 84, abs=1e-3)
    assert set(entry["grammar"]) == {"mean", "low", "high"}


def test_the_judge_reads_all_texts_within_its_budget(run_script, tiny_run, stub, tmp_path):
    (tmp_path / "prompts.txt").write_text("Once upon a time\n\nOne day, Tom\n")
    flags = ("--score", "--model", tiny_run, "--samples", 16, "--threads", 1, "--judge",
             f"http://127.0.0.1:{stub.server_port}/v1#stub", "--prompt-file",
             "prompts.txt")  # fmt: skip
    done = run_script("eval.py", *flags, "--judge-budget", 500)  # each answer costs 100 tokens
    assert done.code == 0, done.err
    judged = {row[0]: row[1:] for row in rows_of(done.out)}
    assert judged[str(tiny_run)] == ["8.00", "6.50", "7.00", "5.00", "6-7", "5"]
    done = run_script("eval.py", *flags)
    judged = {row[0]: row[1:] for row in rows_of(done.out)}
    assert judged[str(tiny_run)][-1] == "16" and len(stub.requests) == 16  # 5 were cached
    questions = [body["messages"][0]["content"] for _, _, body in stub.requests]
    assert sum("\n\nOne day, Tom***" in question for question in questions) == 7


def test_human_scores_need_no_model(run_script, human_scores, tiny_run):
    done = run_script("eval.py", "--score", "--human", human_scores, "--grader", tiny_run,
                      "--threads", 1)  # fmt: skip
    assert done.code == 0, done.err
    table = {row[0]: row[1:] for row in rows_of(done.out)}
    assert table["rank correlation"] == [*COLUMNS, "shown"]
    assert table["grammar"][0] == table["creativity"][0] == "1.00 (1.00 to 1.00)"
    assert table["creativity"][-1] == "yes" and float(table["plot"][0].split()[0]) < 1
    assert "'context': (" in done.out and "model" not in table


def test_what_cannot_be_scored_is_refused(run_script):
    for flags, words in (
        (["--score", "--human", "x.csv"], "--human needs --grader"),
        (["--score", "--judge", "http://x/v1"], "--judge takes URL#NAME"),
    ):
        done = run_script("eval.py", *flags)
        assert done.code == 2 and words in done.err
    assert ScoreConfig(judge="http://x#m").judge_budget > 0
