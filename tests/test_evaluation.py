"""Loss, perplexity and exact match: against plain loops, and on models whose score is known."""

import math

import pytest
import torch
from helpers import random_model
from torch.nn import functional as F

from minislm import evaluation
from minislm.dataset import TokenDataset
from minislm.evaluation import (
    Answer,
    TextLoss,
    answers,
    document_losses,
    exact_match,
    sliding_windows,
    text_loss,
)
from minislm.sampler import Sampler
from minislm.studies.baselines import DummyModel
from minislm.tasks import encode_pair, pair, pairs
from minislm.tokenizer import Tokenizer

EOT = 0


def test_the_loss_of_a_document_is_that_of_its_text_alone():
    model = random_model()
    documents = TokenDataset.from_ids([[5, 6, 7], [9], list(range(20, 120))], [3, 1, 100])
    nats = document_losses(model, documents, EOT, batch_tokens=64)
    for number, ids in enumerate(([5, 6, 7], [9], list(range(20, 120)))):
        # from_ids takes whole documents: the last id is the end of text or a token like any other
        logits = model(torch.tensor([[EOT, *ids[:-1]]]))[0]
        expected = F.cross_entropy(logits, torch.tensor(ids), reduction="sum")
        assert nats[number] == pytest.approx(expected.item(), rel=1e-5)
    loss = text_loss(model, documents, EOT)
    assert (loss.tokens, loss.bytes) == (104, 104)
    assert loss.nats == pytest.approx(nats.sum(), rel=1e-6)
    assert model.training is False and text_loss(model.train(), documents, EOT).nats == loss.nats
    assert model.training is True


def test_a_long_document_is_read_in_windows_that_overlap_by_half():
    assert sliding_windows(5, 8) == [(0, 5, 0)]
    assert sliding_windows(14, 8) == [(0, 8, 0), (4, 12, 8), (8, 14, 12)]
    model = random_model(context=16)
    ids = torch.randint(1, 300, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    documents, expected = TokenDataset.from_ids([ids], [50]), 0.0
    for at in range(50):  # every token by itself, from the window that scores it
        begin = next(b for b, e, first in sliding_windows(50, 16) if first <= at < e)
        context = [EOT, *ids][begin : at + 1]
        logits = model(torch.tensor([context]))[0, -1]
        expected -= F.log_softmax(logits, -1)[ids[at]].item()
    found = document_losses(model, documents, EOT)[0]
    assert found == pytest.approx(expected, rel=1e-5)
    assert document_losses(model, documents, EOT, context=4)[0] != pytest.approx(found, rel=1e-3)


def test_the_units_of_a_loss():
    loss = TextLoss(nats=math.log(2) * 30, tokens=10, bytes=60)
    assert loss.nats_per_token == pytest.approx(3 * math.log(2))
    assert loss.perplexity == pytest.approx(8) and loss.bits_per_byte == pytest.approx(0.5)
    assert TextLoss(1e6, 1, 1).perplexity < math.inf


@pytest.fixture(scope="module")
def digits():
    texts = [each.prompt + each.answer for each in pairs("copy")]
    return Tokenizer.train(texts, 300)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_exact_match_is_the_accuracy_of_a_model_whose_accuracy_is_known(accuracy, digits):
    model = DummyModel(digits, accuracy, seed=1)
    score = exact_match(Sampler(model, digits), ["copy"])["copy"]
    assert score.train[1] == 70 and score.test[1] == 30 and score.too_long == ()
    for right, n in (score.train, score.test):
        assert abs(right / n - accuracy) <= 3 * math.sqrt(accuracy * (1 - accuracy) / n)


class Fixed(torch.nn.Module):
    """Continues each prompt with given ids, whatever they are."""

    def __init__(self, continuations, vocab, context):
        super().__init__()
        self.continuations, self.vocab = continuations, vocab
        self.config = type("Config", (), {"context": context, "vocab_size": vocab})()

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, self.vocab)
        for row, ids in zip(logits, tokens.tolist()):
            for prompt, completion in self.continuations.items():
                if tuple(ids[: len(prompt)]) == prompt:
                    at = len(ids) - len(prompt)
                    row[-1, completion[min(at, len(completion) - 1)]] = 9.0
        return logits


def test_an_answer_must_be_equal_and_finished(digits):
    first, second, third = pair("copy", 12), pair("copy", 14), pair("copy", 15)
    known = {}
    for each in (first, second, third):
        prompt, completion = encode_pair(digits, each)
        known[tuple(prompt)] = completion
    known[tuple(encode_pair(digits, second)[0])] = digits.encode(" 14")  # then " 144..."
    known[tuple(encode_pair(digits, third)[0])] = [*digits.encode(" 16"), digits.eot_id]
    sampler = Sampler(Fixed(known, digits.vocab_size, 64), digits)
    found = answers(sampler, [first, second, third])
    assert found[0] == Answer(" 12", True) and found[2] == Answer(" 16", True)
    assert not found[1].finished and found[1].text.startswith(" 144")


@pytest.mark.parametrize("finished, right", [(True, (70, 30)), (False, (0, 0))])
def test_a_right_text_without_an_end_is_no_match(digits, monkeypatch, finished, right):
    def reply(sampler, questions):
        return [Answer(each.answer, finished) for each in questions]

    monkeypatch.setattr(evaluation, "answers", reply)
    sampler = Sampler(random_model(vocab_size=digits.vocab_size), digits)
    score = exact_match(sampler, ["copy"])["copy"]
    assert (score.train[0], score.test[0]) == right


def test_pairs_beyond_the_context_are_left_out_and_named(digits):
    model = random_model(vocab_size=digits.vocab_size, context=48)
    score = exact_match(Sampler(model, digits), ["unary"])["unary"]
    assert score.too_long and score.train[1] + score.test[1] + len(score.too_long) == 100
    assert score.too_long[-1] == 100
