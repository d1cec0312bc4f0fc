"""Batches: every document once an epoch, none mixed with another, and a state to go on from."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from minislm.corpus.prepare import TokenDataset
from minislm.dataset import IGNORED, Batches, Example

EOT = 0
LENGTHS = [5, 40, 9, 100, 33, 64, 7, 20] * 3


def token_file() -> TokenDataset:
    """Story n is n * 1000 + 1, n * 1000 + 2, ... and the end of text: its tokens tell its number."""
    stories = [[n * 1000 + t for t in range(1, size)] + [EOT] for n, size in enumerate(LENGTHS, 1)]
    return TokenDataset.from_ids(stories, 1)


EXAMPLES = [Example([90_001, 90_002], [90_003, EOT]), Example([91_001], [91_002, 91_003, EOT])]


def make(**options) -> Batches:
    settings = dict(context=48, batch_tokens=200, eot_id=EOT, repeats=2, seed=1) | options
    return Batches(token_file(), EXAMPLES, **settings)


def one_epoch(batches: Batches):
    found = []
    for inputs, targets in batches:
        if batches.state["epoch"]:
            return found
        found.append((inputs, targets))


def test_every_document_comes_once_an_epoch_and_examples_as_often_as_asked():
    learned = Counter()
    for _, targets in one_epoch(make()):
        learned.update(targets[targets > 0].tolist())
    for n, size in enumerate(LENGTHS, 1):
        for t in range(2, size):
            expected = 1
            if (t - 1) % 48 == 0:
                expected = 0  # the first token of a later window has nothing before it
            assert learned[n * 1000 + t] == expected, (n, t)
    assert learned[90_003] == 2 and learned[91_003] == 2


def test_no_row_mixes_two_documents():
    for inputs, targets in one_epoch(make()):
        for row, target in zip(inputs, targets):
            numbers = {t // 1000 for t in row.tolist() + target.tolist() if t > 0}
            assert len(numbers) == 1


def test_targets_are_the_next_inputs_and_padding_is_ignored():
    for inputs, targets in one_epoch(make()):
        assert inputs.shape == targets.shape and inputs.shape[1] % 16 == 0
        # (the last target of a window is the first input of the next one)
        counts = (targets[:, :-1] != IGNORED) & (targets[:, 1:] != IGNORED)
        assert torch.equal(inputs[:, 1:][counts], targets[:, :-1][counts])


def test_a_batch_holds_no_more_than_its_tokens_unless_it_is_one_row():
    assert all(
        inputs.numel() <= 200 or len(inputs) == 1 for inputs, _ in one_epoch(make(context=300))
    )


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
def test_a_prompt_is_learned_only_if_asked(loss_on, learned):
    batches = make(loss_on=loss_on)
    _, targets = batches.row(len(batches.document) - 2, False)
    assert targets[(targets != IGNORED) & (targets != EOT)].tolist() == learned


@pytest.mark.parametrize("stop", [1, 7, 30])
def test_a_restored_stream_goes_on_with_the_next_batch(stop):
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


@pytest.mark.parametrize("world", [2, 5])
def test_processes_share_the_rows_of_the_same_batches(world):
    whole = one_epoch(make())
    shares = [one_epoch(make(rank=r, world=world)) for r in range(world)]
    assert {len(share) for share in shares} == {len(whole)}
    for k, (_, targets) in enumerate(whole):
        counted = [t[t >= 0].tolist() for share in shares for t in share[k][1]]
        assert sorted(filter(None, counted)) == sorted(t[t >= 0].tolist() for t in targets)


def test_an_example_longer_than_the_context_is_never_cut():
    with pytest.raises(ValueError, match="context"):
        make(context=2)


def test_types_are_what_the_model_takes():
    inputs, targets = next(iter(make()))
    assert inputs.dtype == targets.dtype == torch.int64
    assert np.all(inputs.numpy() >= 0)
