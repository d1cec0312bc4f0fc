"""Batches: every document once per epoch, none mixed with another, and a state to resume from."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from minislm.dataset import IGNORED, Batches, TokenDataset, hold_out, read_documents
from minislm.runtime.errors import UserError

EOT = 0
LENGTHS = [5, 40, 9, 100, 33, 64, 7, 20] * 3


def documents() -> TokenDataset:
    """Document n is n * 1000 + 1, n * 1000 + 2, ... and the end of text."""
    ids = [[n * 1000 + t for t in range(1, size)] + [EOT] for n, size in enumerate(LENGTHS, 1)]
    return TokenDataset.from_ids(ids, range(len(LENGTHS)))


EXAMPLES = [([90_001, 90_002], [90_003, EOT]), ([91_001], [91_002, 91_003, EOT])]


def make(**options) -> Batches:
    settings = dict(context=48, batch_tokens=200, eot_id=EOT, repeats=2, seed=1) | options
    return Batches(documents(), EXAMPLES, **settings)


def one_epoch(batches: Batches):
    found = []
    for inputs, targets in batches:
        if batches.state["epoch"]:
            return found
        found.append((inputs, targets))


def test_every_token_is_a_target_once_per_epoch_and_examples_as_often_as_wanted():
    targets_of = Counter()
    for _, targets in one_epoch(make()):
        targets_of.update(targets[targets > 0].tolist())
    for n, size in enumerate(LENGTHS, 1):
        for t in range(2, size):
            assert targets_of[n * 1000 + t] == 1, (n, t)
    assert targets_of[90_003] == 2 and targets_of[91_003] == 2


@pytest.mark.parametrize("context", [3, 16, 39, 63, 99])  # three leave a last row with one token
def test_all_tokens_of_a_document_beyond_the_context_are_targets(context):
    batches = make(context=context)
    rows = range(int((batches.document < len(LENGTHS)).sum()))
    targets = [batches.row(r, from_end_of_text=True)[1] for r in rows]
    assert np.array_equal(np.concatenate(targets), documents().tokens)  # with their ends
    targets = [batches.row(r, from_end_of_text=False)[1] for r in rows]
    first = documents().starts[:-1]  # which nothing precedes
    assert np.array_equal(np.concatenate(targets), np.delete(documents().tokens, first))


def test_the_end_of_text_is_a_target_of_every_document():
    ends = sum(int((targets == EOT).sum()) for _, targets in one_epoch(make()))
    assert ends == len(LENGTHS) + 2 * len(EXAMPLES)


def test_no_row_mixes_two_documents():
    for inputs, targets in one_epoch(make()):
        for row, target in zip(inputs, targets):
            numbers = {t // 1000 for t in row.tolist() + target.tolist() if t > 0}
            assert len(numbers) == 1


def test_targets_are_the_next_inputs_and_padding_is_ignored():
    for inputs, targets in one_epoch(make()):
        assert inputs.shape == targets.shape and inputs.shape[1] % 16 == 0
        counts = (targets[:, :-1] != IGNORED) & (targets[:, 1:] != IGNORED)
        assert torch.equal(inputs[:, 1:][counts], targets[:, :-1][counts])


@pytest.mark.parametrize("context", [37, 50, 63])
def test_rows_are_never_padded_beyond_the_context(context):
    longest = max(inputs.shape[1] for inputs, _ in one_epoch(make(context=context)))
    assert longest == context


def test_a_batch_has_at_most_its_tokens_unless_it_is_one_row():
    batches = one_epoch(make(context=300))
    assert all(inputs.numel() <= 200 or len(inputs) == 1 for inputs, _ in batches)


def test_rows_start_from_the_end_of_text_in_every_other_epoch():
    begins = Counter()
    batches = make(context=300)
    for inputs, _ in batches:
        if batches.state["epoch"] == 2:
            break
        for row in inputs[:, 0].tolist():
            begins[row] += 1
    assert begins[EOT] == len(LENGTHS)
    assert all(begins[n * 1000 + 1] == 1 for n in range(1, len(LENGTHS) + 1))


@pytest.mark.parametrize("loss_on, learned", [("completion", [90_003]), ("all", [90_002, 90_003])])
def test_a_prompt_has_a_loss_only_if_wanted(loss_on, learned):
    batches = make(loss_on=loss_on)
    _, targets = batches.row(len(batches.document) - 2, False)
    assert targets[(targets != IGNORED) & (targets != EOT)].tolist() == learned


@pytest.mark.parametrize("stop", [1, 7, 30])
def test_a_restored_stream_continues_with_the_next_batch(stop):
    expected = list(islice(iter(make()), 45))
    begun = make()
    list(islice(iter(begun), stop))
    resumed = make()
    resumed.state = dict(begun.state)
    for (a, b), (c, d) in zip(expected[stop:], resumed):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_epochs_and_seeds_differ_in_order():
    first = [inputs.tolist() for inputs, _ in one_epoch(make())]
    other = [inputs.tolist() for inputs, _ in one_epoch(make(seed=2))]
    assert first != other


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_rows_of_the_same_batches(processes):
    whole = one_epoch(make())
    shares = [one_epoch(make(rank=r, world_size=processes)) for r in range(processes)]
    assert {len(share) for share in shares} == {len(whole)}
    for k, (_, targets) in enumerate(whole):
        counted = [t[t >= 0].tolist() for share in shares for t in share[k][1]]
        assert sorted(filter(None, counted)) == sorted(t[t >= 0].tolist() for t in targets)


def test_an_example_longer_than_the_context_is_never_cut():
    with pytest.raises(ValueError, match="context"):
        make(context=2)


def test_types_are_those_the_model_takes():
    inputs, targets = next(iter(make()))
    assert inputs.dtype == targets.dtype == torch.int64
    assert np.all(inputs.numpy() >= 0)


def test_a_part_of_a_dataset_counts_its_own_tokens_and_bytes():
    whole = documents()
    first, last = hold_out(whole)
    assert len(first) == 23 and len(last) == 1
    assert last.n_tokens == LENGTHS[-1] and last.bytes == 23
    assert first.n_tokens + last.n_tokens == whole.n_tokens == sum(LENGTHS)
    assert last.document(0).tolist() == whole.document(23).tolist()
    some = whole.subset([2, 5])
    assert some.n_tokens == 9 + 64 and some.bytes == 7 and len(some) == 2
    with pytest.raises(UserError, match="too few"):
        hold_out(whole.subset([0]))


def test_documents_of_a_text_file(tmp_path, tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("One.\n<|endoftext|>\n\n<|endoftext|> Zwölf.", encoding="utf-8")
    assert read_documents(path) == ["One.", "Zwölf."]
    dataset = TokenDataset.from_texts(read_documents(path), tokenizer)
    assert dataset.sizes.tolist() == [4, 7] and dataset.document(1)[-1] == tokenizer.eot_id
    path.write_text(" <|endoftext|> \n")
    with pytest.raises(UserError, match="no text"):
        read_documents(path)
