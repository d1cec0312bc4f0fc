"""Model variants and their texts: the split, the weights, no contamination."""

import re

import pytest
import torch

from minislm.stories.generate import generate
from minislm.stories.number_plots import NUMBER_PLOTS
from minislm.studies import variants
from minislm.studies.variants import VARIANTS, Variant, story_texts
from minislm.tasks import TASKS, number_words, pairs
from minislm.tokenizer import Tokenizer


def test_the_split_is_exactly_70_and_30_by_the_last_digit():
    for task in TASKS:
        train, held_out = Variant("any").split(task, 0, pairs(task))
        assert [p.i for p in held_out] == [i for i in range(1, 101) if i % 10 in (1, 3, 7)]
        assert len(train) == 70 and not {p.i for p in train} & {p.i for p in held_out}
    random_split = Variant("any", held_out="random")
    one, other = (random_split.split("copy", seed, pairs("copy"))[1] for seed in (0, 1))
    assert len(one) == len(other) == 30 and one != other


def test_no_pair_of_d_test_occurs_in_the_pre_training_text():
    """Neither a prompt nor the question of a task about a number of D_test, in any wording."""
    held_out = {i for i in range(1, 101) if i % 10 in (1, 3, 7)}
    prompts = ("Copy the number", "Reverse the digits", "even or odd", "comes after", "in words:",
               "Count to", "Words:")  # fmt: skip
    numbers = set()
    for text in (story.text for seed in range(2) for story in generate(800, seed, numbers=1.0)):
        assert not any(prompt in text for prompt in prompts)
        numbers |= set(map(int, re.findall(r"\d+", text)))
    wordings = (  # regular expressions; [x] is x, in words of stories that code should not use
        "after hous[e] {n} came", "in hous[e] {n},", "what is after {n}", "{n} was (odd|even)",
        "{n} is (odd|even)", r"is {n}\?", r"sa[y] {n}\?", "showed it {n}", "mirror, {n} was",
        "wrote {n}", "saw {n} on", "sign sai[d] {n}", "sai[d] {w},", r'sai[d], "{n}\.',
        r"box was {n}\.", "write {n} too",
    )  # fmt: skip
    everything = "\n".join(s.text for s in generate(2500, 0, numbers=1.0)).lower()
    for wording in wordings:
        number = wording.replace("{n}", r"\d+").replace("{w}", r"[a-z -]+")
        assert re.search(number, everything), wording  # each is one of the stories' own
        for n in held_out:
            question = wording.replace("{n}", rf"\b{n}\b").replace("{w}", rf"\b{number_words(n)}")
            assert not re.search(question, everything), question
    assert len(NUMBER_PLOTS) == 5 and max(numbers) < 1000


def test_shuffled_words_are_the_same_words():
    plain, shuffled = (story_texts(name, 0, 5) for name in ("numbers", "shuffled"))
    for one, other in zip(plain, shuffled):
        assert one != other and sorted(one.split(" ")) == sorted(other.split(" "))


def test_every_shape_has_the_weights_of_its_seed():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    tokenizer = Tokenizer.train(["1 2 3 a story"], 300, "single")
    for shape in variants.SHAPES:
        one, same, other = (variants.random_weights(shape, seed, tokenizer) for seed in (0, 0, 1))
        assert torch.equal(one.embedding.weight, same.embedding.weight)
        assert not torch.equal(one.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("trained", ["all", "blocks", "last block"])
def test_only_the_trained_weights_have_gradients(monkeypatch, tmp_path, trained):
    monkeypatch.setattr(variants, "TOKENIZER_STORIES", 20)
    model, _ = Variant("any", "one block", trained=trained).load(0, tmp_path)
    monkeypatch.setitem(variants.SHAPES, "two", dict(n_layer=2, width=32, n_head=2, n_kv_head=0))
    model, _ = Variant("any", "two", trained=trained).load(0, tmp_path)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    everything = {name for name, _ in model.named_parameters()}
    prefix = {"all": "", "blocks": "blocks.", "last block": "blocks.1."}[trained]
    assert names == {name for name in everything if name.startswith(prefix)} and names
