"""The synthetic dataset: every task, the split, and the files in data/."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.pairs import write_pairs
from minislm.runtime.errors import UserError
from minislm.tasks import (
    END_OF_TEXT,
    NOUNS,
    TASKS,
    Pair,
    encode_pair,
    fits,
    is_test,
    number_words,
    pair,
    pairs,
)
from minislm.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
EVERYTHING = [each for task in TASKS for each in pairs(task)]


@pytest.fixture(scope="module")
def single():
    return Tokenizer.train([each.prompt + each.answer for each in EVERYTHING], 600)


@pytest.fixture(scope="module")
def merged():
    texts = [each.prompt + each.answer for each in EVERYTHING if each.task != "unary"]
    return Tokenizer.train(texts, 600, digits="merged")


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


# --- definition -----------------------------------------------------------------------------------


def test_the_reference_task():
    start = "Please count up in unary, starting at 1 and stopping at"
    assert pair("unary", 2) == Pair("unary", 2, f"{start} 11:", " 1 11")
    assert pair("unary", 1).prompt == f"{start} 1:" and pair("unary", 1).answer == " 1"
    assert pair("unary", 3).split == "test" and pair("unary", 2).split == "train"
    assert next(iter(TASKS)) == "unary"
    items = pair("unary", 100).answer.split()
    assert [len(item) for item in items] == list(range(1, 101))
    assert set(pair("unary", 100).answer) == {"1", " "}


@pytest.mark.parametrize("task", TASKS)
def test_the_split(task):
    train, test = pairs(task, "train"), pairs(task, "test")
    assert [p.i for p in test] == [i for i in range(1, 101) if i % 10 in (1, 3, 7)]
    assert [p.i for p in train] == [i for i in range(1, 101) if i % 10 not in (1, 3, 7)]
    assert (len(train), len(test)) == (70, 30)
    assert [p.i for p in pairs(task)] == list(range(1, 101))
    assert all(is_test(p.i) and p.split == "test" for p in test)


@pytest.mark.parametrize(
    ("task", "i", "answer"),
    [
        ("copy", 41, " 41"),
        ("reverse", 41, " 14"),
        ("reverse", 10, " 01"),
        ("reverse", 100, " 001"),
        ("parity", 41, " odd"),
        ("parity", 100, " even"),
        ("successor", 99, " 100"),
        ("successor", 100, " 101"),
        ("words", 41, " forty-one"),
        ("words", 17, " seventeen"),
        ("words", 90, " ninety"),
        ("words", 100, " one hundred"),
        ("count", 1, " 1"),
        ("count", 13, " 1 2 3 4 5 6 7 8 9 10 11 12 13"),
        ("sentence", 41, " Forty-one brave dogs jump."),
    ],
)
def test_answers(task, i, answer):
    assert pair(task, i).answer == answer


def test_number_words():
    names = [number_words(i) for i in range(1000)]
    assert len(set(names)) == 1000
    assert names[0] == "zero" and names[205] == "two hundred five"
    assert names[999] == "nine hundred ninety-nine"
    for i in (-1, 1000):
        with pytest.raises(ValueError):
            number_words(i)


def test_sentences_agree_in_number():
    assert pair("sentence", 1).answer == " One happy mouse sings."
    plural = dict(NOUNS)
    for each in pairs("sentence"):
        i, adjective, noun, verb = re.fullmatch(
            r"Words: (\d+), (\w+), (\w+), (\w+)\.", each.prompt
        ).groups()
        agreed = f"{noun} {verb}s" if i == "1" else f"{plural[noun]} {verb}"
        expected = f" {number_words(int(i)).capitalize()} {adjective} {agreed}."
        assert each.answer == expected
    assert plural["mouse"] == "mice" and plural["sheep"] == "sheep"


# --- what the tasks promise -----------------------------------------------------------------------


def test_prompts_are_distinct_and_each_task_is_unmistakable():
    assert len({each.prompt for each in EVERYTHING}) == 100 * len(TASKS)
    first_words = {task: {p.prompt.split()[0] for p in pairs(task)} for task in TASKS}
    assert all(len(words) == 1 for words in first_words.values())
    assert len(set.union(*first_words.values())) == len(TASKS)


def test_answers_start_where_prompts_end():
    for each in EVERYTHING:
        assert each.prompt == each.prompt.strip()
        assert each.answer[0] == " " and each.answer[1:] == each.answer.strip()


def test_test_answers_use_only_characters_of_training():
    for task in TASKS:
        seen = set("".join(p.answer for p in pairs(task, "train")))
        assert set("".join(p.answer for p in pairs(task, "test"))) <= seen, task


def test_sentence_words_of_the_test_occur_in_training():
    train, test = (pairs("sentence", split) for split in ("train", "test"))
    seen = set.union(*(words_of(p.prompt) for p in train))
    assert set.union(*(words_of(p.prompt) for p in test)) <= seen
    numbers = set.union(*(words_of(number_words(i)) for i in range(101)))
    verb_of_one = {"mouse", "sings"}  # the only singular is i = 1, in the test
    seen = set.union(*(words_of(p.answer) for p in train))
    assert set.union(*(words_of(p.answer) for p in test)) - numbers - verb_of_one <= seen
    word_sets = {frozenset(words_of(p.prompt)) for p in pairs("sentence")}
    assert len(word_sets) == 100


def test_parity_of_the_test_is_odd():
    assert {p.answer for p in pairs("parity", "test")} == {" odd"}
    assert {p.answer for p in pairs("parity", "train")} == {" odd", " even"}


# --- interface ------------------------------------------------------------------------------------


def test_a_mistake_is_named():
    with pytest.raises(UserError, match="unknown task 'revers'; .* unary, copy, "):
        pair("revers", 1)
    with pytest.raises(UserError, match="unknown task 'zzz'; the tasks are unary"):
        pairs("zzz")
    with pytest.raises(UserError, match="1 to 100, not 0"):
        pair("unary", 0)
    with pytest.raises(UserError, match="1 to 100, not 101"):
        pair("unary", 101)
    with pytest.raises(UserError, match="'valid'"):
        pairs("unary", "valid")


def test_encoded_pairs(single, merged):
    for tokenizer in (single, merged):
        for each in EVERYTHING:
            prompt, completion = encode_pair(tokenizer, each)
            assert prompt == tokenizer.prompt_ids(each.prompt)
            assert completion[-1] == tokenizer.eot_id and completion.count(tokenizer.eot_id) == 1
            assert tokenizer.decode(completion) == each.answer
            # No token reaches across the border.
            assert prompt + completion[:-1] == tokenizer.encode(each.prompt + each.answer)


def test_lengths(single, merged):
    longest = pair("unary", 100)
    lengths = [sum(map(len, encode_pair(t, longest))) for t in (single, merged)]
    assert lengths[0] > 5000
    # Merges learned from decimals are few digits long: still more than a usual context.
    assert 1000 < lengths[1] < lengths[0]
    for task in ("copy", "reverse", "parity", "successor", "words", "sentence"):
        assert fits(single, pairs(task), 64) == (pairs(task), [])


def test_fits_loses_nothing(single):
    everything = pairs("unary")
    fitting, too_long = fits(single, everything, 512)
    assert fitting + too_long == everything and fitting and too_long
    exact = sum(map(len, encode_pair(single, fitting[-1])))
    assert fits(single, fitting[-1:], exact)[0] and fits(single, fitting[-1:], exact - 1)[1]


def test_the_stored_data_is_what_the_code_writes(tmp_path):
    paths = write_pairs(tmp_path)
    assert [path.stem for path in paths] == list(TASKS)
    for path in paths:
        assert path.read_bytes() == (ROOT / "data" / path.name).read_bytes()
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [record["i"] for record in records] == list(range(1, 101))
        for record in records:
            each = pair(path.stem, record["i"])
            assert record == {
                "task": each.task,
                "i": each.i,
                "split": each.split,
                "prompt": each.prompt,
                "completion": each.answer + END_OF_TEXT,
            }
    stored = {path.name for path in (ROOT / "data").glob("*.jsonl")}
    assert stored == {path.name for path in paths}


def test_the_command_that_regenerates_the_data(tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "pairs.py", tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "data/pairs.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == [f"{task}.jsonl" for task in TASKS]
    written = tmp_path / "data" / "unary.jsonl"
    assert written.read_bytes() == (ROOT / "data" / "unary.jsonl").read_bytes()


def test_the_data_card_shows_every_task():
    card = (ROOT / "data" / "README.md").read_text()
    for task in TASKS:
        row = re.search(rf"^\| `{task}` \| `([^`]+)` \| `([^`]+)` \|", card, re.MULTILINE)
        assert row, task
        assert any((p.prompt, p.answer) == row.groups() for p in pairs(task)), task
