"""Ablation and patching of heads, on models of random weights."""

from functools import partial

import pytest
import torch

from minislm.studies import circuit as circuits
from minislm.studies.arms import RUN
from minislm.studies.circuit import Twin, circuit, patched, replace
from minislm.studies.learning import first_errors
from minislm.tasks import encode_pair, pair, pairs
from minislm.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train([], 257)


@pytest.fixture(scope="module")
def model():
    model = RUN.random_weights(3, TOKENIZER).eval()
    with torch.no_grad():  # logits that differ by token and place
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return model


@pytest.fixture
def twin(model):
    return Twin(model, TOKENIZER)


def unchanged(layer, y_BHTD):
    return y_BHTD


def test_a_twin_without_an_edit_is_the_model(model, twin):
    tokens = torch.randint(0, 257, (1, 30))
    assert torch.equal(twin.edited(unchanged)(tokens), model(tokens))
    few = pairs("copy")[:9]
    assert twin.right(few, unchanged) == 9 - len(first_errors(model, TOKENIZER, few))


def test_outputs_are_those_of_the_heads_before_the_output_matrix(model, twin):
    ids = torch.randint(0, 257, (30,)).tolist()
    (y_HTD,) = twin.outputs(ids)
    block, tokens = model.blocks[0], torch.tensor([ids])
    x = block.attention_norm(model.embedding(tokens))
    rotary = tuple(table[model.places(tokens)][:, None] for table in (model.cos, model.sin))
    expected = block.attention(x, rotary, None, None, torch.arange(30)[None])
    torch.testing.assert_close(block.attention.out(y_HTD.transpose(0, 1).flatten(1)), expected[0])


def test_replacing_a_head_leaves_the_others(twin):
    y_BHTD = torch.randn(2, 2, 5, 32)
    mean, texts = [torch.randn(2, 1, 32)], [torch.randn(2, 3, 32)]
    ablated = replace([(0, 1)], mean, 0, y_BHTD)
    assert torch.equal(ablated[:, 0], y_BHTD[:, 0]) and (ablated[:, 1] == mean[0][1]).all()
    resampled = replace([(0, 0)], texts, 0, y_BHTD)  # shorter than the text: it is repeated
    assert torch.equal(resampled[1, 0], texts[0][0][[0, 1, 2, 0, 1]])
    assert torch.equal(replace([(1, 0)], mean, 0, y_BHTD), y_BHTD)  # of another block


def test_with_all_heads_patched_a_model_of_one_block_answers_the_other_prompt(model, twin):
    """What it gives in the answer depends on the token, its place and the heads alone."""
    i, j = 5, 9
    (ids_i, _), (ids_j, answer) = (encode_pair(TOKENIZER, pair("unary", n)) for n in (i, j))
    with torch.no_grad():
        after_i, after_j = (model(torch.tensor([ids + answer[:-1]]))[0, len(ids) - 1 :]
                            for ids in (ids_i, ids_j))  # fmt: skip
    assert not torch.allclose(after_i, after_j, atol=1e-3)
    torch.testing.assert_close(patched(twin, twin.heads, i, j), after_j)
    torch.testing.assert_close(patched(twin, [], i, j), after_i)
    one = patched(twin, twin.heads[:1], i, j)
    assert not torch.allclose(one, after_i, atol=1e-4) and not torch.allclose(
        one, after_j, atol=1e-4
    )


def test_a_circuit_has_all_its_numbers(model, monkeypatch):
    monkeypatch.setattr(circuits, "_PATCHED", 3)
    found = circuit(model, TOKENIZER, seed=1)
    # A model that answers nothing loses nothing without any head.
    assert found["keep"] == found["remove"] == found["stops"] == 0
    assert found["remove_one"] == 0
    assert found["patched"] == 3 and found["size"] == len(found["heads"]) <= 4


def test_a_circuit_is_what_the_answers_need(model, monkeypatch):
    """A stand-in for answers: right as long as head 1 of block 0 is unchanged."""

    def right(self, questions, edit):
        probe = torch.randn(1, 4, 40, 16)
        edited = edit(0, probe)
        return len(questions) if torch.equal(edited[:, 1], probe[:, 1]) else 0

    monkeypatch.setattr(Twin, "right", right)
    monkeypatch.setattr(circuits, "_PATCHED", 2)
    for seed in range(3):  # in any order
        found = circuit(model, TOKENIZER, seed)
        assert found["heads"] == [(0, 1)] and found["keep"] == 30
        assert found["remove"] == found["remove_one"] == 0 and found["remove_others"] == 30


def test_stops_are_counted_where_the_answer_is_that_to_the_other_prompt(model, monkeypatch):
    """Stand-ins for models that always stop at j, and always at i."""

    def answer_to(which):
        def logits(twin, heads, *numbers):
            _, answer = encode_pair(TOKENIZER, pair("unary", numbers[which]))
            return torch.nn.functional.one_hot(torch.tensor(answer), 257)

        return logits

    monkeypatch.setattr(circuits, "_PATCHED", 4)
    for which, stops in ((1, 4), (0, 0)):
        monkeypatch.setattr(circuits, "patched", answer_to(which))
        assert circuit(model, TOKENIZER, seed=1)["stops"] == stops


def test_partial_edits_take_block_and_outputs():
    edit = partial(replace, [(0, 0)], [torch.zeros(2, 1, 32)])
    assert edit(0, torch.ones(1, 2, 4, 32))[:, 0].eq(0).all()
