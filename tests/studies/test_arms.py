"""The arms of the generalization study: their models and texts."""

import random
import re
from dataclasses import asdict

import pytest
import torch

from minislm.studies import arms
from minislm.studies.arms import Arm, leaks, story_texts
from minislm.tokenizer import Tokenizer

BYTES = Tokenizer.train([], 257)


def test_arms_differ_in_one_thing_at_a_time():
    run = arms.RUN.random_weights(0, BYTES)
    for arm in arms.OTHERS:
        other = arm.random_weights(0, BYTES)
        same = {k: v for k, v in vars(run.config).items()
                if k not in ("position", "rope_theta", "context")}  # fmt: skip
        assert same.items() <= vars(other.config).items()
        weights = dict(run.named_parameters())
        for name, weight in other.named_parameters():
            assert name == "position.weight" or weight.shape == weights[name].shape
    assert run.n_parameters() < 200_000
    assert torch.equal(run.head.weight, arms.RUN.random_weights(0, BYTES).head.weight)
    assert not torch.equal(run.head.weight, arms.RUN.random_weights(1, BYTES).head.weight)


def test_one_block_twice_has_the_parameters_of_one():
    twice = arms.TWICE.random_weights(0, BYTES)
    assert twice.n_parameters() == arms.RUN.random_weights(0, BYTES).n_parameters()
    tokens = torch.randint(0, 257, (1, 20))
    x = twice.embedding(tokens)
    rotary = tuple(table[twice.places(tokens)][:, None] for table in (twice.cos, twice.sin))
    for _ in range(2):
        x = twice.blocks[0](x, rotary, None, None, torch.arange(20)[None])
    torch.testing.assert_close(twice(tokens), twice.head(twice.norm(x)))


def test_every_arm_has_a_name_of_its_own():
    every = [arms.RUN, *arms.OTHERS, *arms.TWO, arms.TWICE, *arms.LONGER, arms.DRILLED,
             arms.NUMBERS, arms.BROKEN, arms.AFTER]  # fmt: skip
    assert len({arm.name for arm in every}) == len(every)
    assert arms.LONGER[0].recipe(0, False).steps == 4 * arms.RUN.recipe(0, False).steps


@pytest.mark.parametrize("text, count", [
    ("house 41", 1), ("house 42", 0), ("forty-one", 1), ("one hundred forty-one", 0), ("141", 0),
    ("one day, 7 ducks", 0), ("Seventeen cats", 1), ("41, 43 and 47", 3), ("fortyone", 0),
    ("seventy-seven", 1), ("sixty-seven", 1), ("91.", 1), ("100", 0),
])  # fmt: skip
def test_leaks_are_numbers_of_d_test_as_numerals_and_in_words(text, count):
    assert leaks([text]) == count


@pytest.mark.parametrize("text", arms.TEXTS)
def test_no_text_has_a_number_of_d_test(text):
    texts = story_texts(text, 3, 300)
    assert len(texts) == 300 and leaks(texts) == 0
    held_out = {i for i in range(11, 101) if i % 10 in (1, 3, 7)}
    numerals = [int(n) for each in texts for n in re.findall(r"\d+", each)]
    assert not held_out & set(numerals)
    assert story_texts(text, 3, 300) == texts != story_texts(text, 4, 300)


def test_a_broken_text_has_the_same_words_and_other_numbers():
    whole, broken = story_texts("numbers", 5, 200), story_texts("broken", 5, 200)
    forms = [[re.sub(r"\d", "#", each) for each in texts] for texts in (whole, broken)]
    assert forms[0] == forms[1]
    pairs = [pair for a, b in zip(whole, broken)
             for pair in zip(re.findall(r"\d+", a), re.findall(r"\d+", b))]  # fmt: skip
    assert len(pairs) > 500 and all(a != b for a, b in pairs)


def test_drills_are_true_and_never_a_question_of_a_task():
    rng = random.Random(0)
    for _ in range(300):
        found = re.fullmatch(r"(Say|Backwards|From) (.+): (.+)", arms._drill(rng))
        kind, given, answer = found.groups()
        if kind == "From":
            first, last = map(int, given.split(" to "))
            assert answer == " ".join(map(str, range(first, last + 1))) and first > 100
        else:
            assert answer == (given if kind == "Say" else given[::-1]) and len(given) >= 3


def test_a_pre_trained_model_is_found_by_its_seed(tmp_path, monkeypatch):
    arm = Arm("drills", text="drills")
    scales = []
    train = arms.train_in_memory

    def watched(model, *inputs, **options):
        scales.append((model.blocks[0].attention.scale, model.blocks[0].attention.null_cosine))
        return train(model, *inputs, **options)

    monkeypatch.setattr(arms, "train_in_memory", watched)
    result = arms.pretrain(asdict(arm), seed=7, steps=2, folder=tmp_path)
    assert result["leaks"] == 0 and result["steps"] == 2
    assert scales == [(6.0, 0.0)]  # as the curriculum of the task begins
    model, tokenizer = arm.model(7, tmp_path)
    assert tokenizer.vocab_size == 257 and model.config.position == "run"
    assert model.config.run_tokens == tokenizer.digit_ids
