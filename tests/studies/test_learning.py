"""Answers by teacher forcing, and training in memory."""

import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS, TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import Answer, answers
from minislm.sampler import Sampler
from minislm.studies.arms import Arm
from minislm.studies.baselines import Baseline, DummyModel
from minislm.studies.learning import deviation, first_errors, train_in_memory
from minislm.tasks import Pair, pairs
from minislm.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train([], 257)


@pytest.mark.parametrize(
    "options, steps", [({}, 30), (PRESETS["unary"], 60)], ids=["rotary", "run"]
)
def test_first_errors_are_those_of_greedy_decoding(options, steps):
    """A half-trained model: its right answers, and where the others leave the right one."""
    shape = dict(vocab_size=257, context=512) | options | {"run_tokens": TOKENIZER.digit_ids}
    model = random_model(**shape | {"context": 512})
    questions = pairs("copy")
    config = TrainConfig(steps=steps, batch_tokens=512, learning_rate=5e-3, seed=1)
    train_in_memory(model, TOKENIZER, config, pairs("copy"))
    found = first_errors(model, TOKENIZER, questions)
    assert 0 < len(found) < 100  # both kinds are there
    for pair, answer in zip(questions, answers(Sampler(model, TOKENIZER), questions)):
        if str(pair.i) not in found:
            assert answer == Answer(pair.answer, True)
            continue
        at, text = found[str(pair.i)]
        assert answer.text[:at] == pair.answer[:at]
        assert answer.text[at : at + 1] == text and (text or answer.finished)


def test_the_first_errors_of_a_dummy_are_the_questions_that_it_gets_wrong():
    model = DummyModel(TOKENIZER, 0.3, known=pairs("words"))
    wrong = {
        str(pair.i)
        for pair, answer in zip(pairs("words"), answers(Sampler(model, TOKENIZER), pairs("words")))
        if answer.text != pair.answer
    }
    assert set(first_errors(model, TOKENIZER, pairs("words"))) == wrong
    assert first_errors(DummyModel(TOKENIZER, 1.0), TOKENIZER, pairs("words")) == {}


def test_a_deviation_is_a_place_and_the_character_there():
    assert deviation(" 41", " 41") is None
    assert deviation(" 41", " 49") == [2, "9"]
    assert deviation(" 41", " 4") == [2, ""]  # it stops too early
    assert deviation(" 41", " 410") == [3, "0"]


@pytest.mark.parametrize("answer, expected", [
    (" even", [1, "e"]), (" odd", None), (" odd one", [4, " "]), ("", [0, ""]),
])  # fmt: skip
def test_first_errors_do_not_depend_on_the_tokens(answer, expected):
    """The same places for bytes and for words, which heuristics are compared by."""
    texts = ["Is it even or odd? odd one even"] * 9
    pair = pairs("parity", "test")[0]
    for tokenizer in (TOKENIZER, Tokenizer.train(texts, 290, "single")):
        model = Baseline(lambda pair, train: answer, tokenizer, known=[pair])
        found = first_errors(model, tokenizer, [pair])
        assert found == ({"1": expected} if expected else {})


def test_a_token_that_is_the_begin_of_the_right_one_is_no_end():
    tokenizer = Tokenizer.train(["forty-one forty two"] * 9, 300, "single")
    pair = Pair("words", 41, "Write 41:", " forty")
    start = tokenizer.encode(" for")
    assert len(tokenizer.encode(" forty")) == 1 and len(start) > 0
    model = Baseline(lambda pair, train: " for the", tokenizer, known=[pair])
    at, text = first_errors(model, tokenizer, [pair])["41"]
    assert text not in ("", "t")


def test_a_run_from_one_seed_is_repeated_to_the_bit():
    def losses(seed):
        model = Arm("any").random_weights(seed, TOKENIZER)
        config = TrainConfig(steps=5, batch_tokens=256, curriculum=0.5, seed=seed)
        return train_in_memory(model, TOKENIZER, config, pairs("unary", "train"))

    assert losses(1) == losses(1) != losses(2)
    assert losses(1)["steps"] == 5


def test_stories_are_trained_on_too():
    model = random_model(vocab_size=257)
    texts = ["Tom had a ball. " * 4, "Ann had a cat. " * 4]
    config = TrainConfig(steps=30, batch_tokens=256)
    result = train_in_memory(model, TOKENIZER, config,
                             stories=TokenDataset.from_texts(texts, TOKENIZER))  # fmt: skip
    assert result["loss"] < 5.5 and not model.training and torch.is_grad_enabled()
