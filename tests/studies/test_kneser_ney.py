"""data/ngram.py: Kneser-Ney probabilities against plain loops, and the command."""

import importlib.util
import math
import random
from collections import Counter

import numpy as np
import pytest
from helpers import ROOT

from minislm.dataset import TokenDataset
from minislm.runtime.errors import UserError
from minislm.stories.generate import generate

spec = importlib.util.spec_from_file_location("ngram", ROOT / "data" / "ngram.py")
ngram = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ngram)

V, EOT = 7, 0


def documents(seed, count=40):
    rng = random.Random(seed)
    texts = [[rng.choice((1, 2, 2, 3, 3, 3, 4, 5)) for _ in range(rng.randrange(1, 12))]
             for _ in range(count)]  # fmt: skip
    return TokenDataset.from_ids([[*text, EOT] for text in texts], list(map(len, texts)))


def plain(data, n, tokens):
    """The probability of the last of n tokens, by the equations of Chen & Goodman in loops."""
    counts = Counter()
    for i in range(len(data)):
        text = [EOT] * (n - 1) + data.document(i).tolist()
        counts.update(tuple(text[at : at + n]) for at in range(len(text) - n + 1))
    tables = {n: counts}
    for length in range(n - 1, 0, -1):
        tables[length] = Counter(gram[1:] for gram in tables[length + 1])

    def p(gram):
        if not gram:
            return 1 / V
        table = tables[len(gram)]
        kinds = Counter(table.values())
        share = kinds[1] / max(1, kinds[1] + 2 * kinds[2])
        discount = {c: max(0, c - (c + 1) * share * kinds[c + 1] / max(1, kinds[c]))
                    for c in (1, 2, 3)}  # fmt: skip
        after = [count for each, count in table.items() if each[:-1] == gram[:-1]]
        if not after:
            return p(gram[1:])
        count = table[gram]
        own = count - discount[min(count, 3)] if count else 0
        left = sum(discount[min(each, 3)] for each in after)
        return own / sum(after) + left / sum(after) * p(gram[1:])

    return p(tuple(tokens))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_probabilities_are_those_of_plain_loops_and_sum_to_one(n):
    data, rng = documents(n), random.Random(0)
    model = ngram.NGrams(data, V, n, EOT)
    for _ in range(30):
        context = [rng.randrange(V) for _ in range(n - 1)]  # 6 is in no document
        grams = np.array([[*context, token] for token in range(V)])
        found = model.probabilities(grams @ V ** np.arange(n - 1, -1, -1))
        assert np.allclose(found, [plain(data, n, gram) for gram in grams.tolist()])
        assert math.isclose(found.sum(), 1)


def test_bits_per_byte_are_those_of_every_token_of_each_document():
    data, other = documents(1), documents(2, 5)
    nats = 0.0
    for i in range(len(other)):
        text = [EOT, EOT, *other.document(i).tolist()]
        nats -= sum(math.log(plain(data, 3, text[at : at + 3])) for at in range(len(text) - 2))
    expected = nats / math.log(2) / other.bytes
    assert math.isclose(ngram.NGrams(data, V, 3, EOT).bits_per_byte(other), expected)


def test_the_command_prints_each_n_and_refuses_what_does_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stories = [story.text for story in generate(120, 3)]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")
    ngram.main(["text.txt", "--n", "2", "--vocab", "300"])
    losses = [float(line.split()[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 2 and losses[0] > losses[1] > 0
    with pytest.raises(UserError, match="--n must be from 1 to 7, not 9"):
        ngram.main(["text.txt", "--n", "9", "--vocab", "300"])
