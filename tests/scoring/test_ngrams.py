"""BLEU and ROUGE against the field's own implementations, on random text."""

import random

import pytest

from minislm.scoring.ngrams import (
    Library,
    bleu,
    distinct,
    rouge_l,
    rouge_n,
    runs,
    self_bleu,
    words_of,
)

WORDS = "the cat sat on a red mat and saw one big dog run to Tom .".split()


def texts(seed, count, low=4, high=30):
    rng = random.Random(seed)
    return [[rng.choice(WORDS) for _ in range(rng.randint(low, high))] for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_references", [1, 3])
def test_bleu_is_sacrebleus(seed, n_references):
    sacrebleu = pytest.importorskip("sacrebleu")
    said = texts(seed, 7)
    if seed % 2:  # something in common beyond chance
        said = [ref[:10] + each for ref, each in zip(texts(seed + 100, 7), said)]
    references = [texts(seed + 100 * (k + 1), 7) for k in range(n_references)]
    expected = sacrebleu.corpus_bleu(
        [" ".join(each) for each in said],
        [[" ".join(each) for each in refs] for refs in references], tokenize="none",
    )  # fmt: skip
    assert bleu(said, list(zip(*references))) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_bleu_of_a_sentence_without_long_matches_is_smoothed_as_sacrebleu_does(seed):
    sacrebleu = pytest.importorskip("sacrebleu")
    (said,), (reference,) = texts(seed, 1, 4, 9), texts(seed + 50, 1, 4, 9)
    expected = sacrebleu.corpus_bleu([" ".join(said)], [[" ".join(reference)]], tokenize="none")
    assert bleu([said], [[reference]]) == pytest.approx(expected.score, abs=1e-9)


def test_bleu_refuses_what_has_no_reference():
    assert bleu([["a"]], [[["b"]]]) == 0
    with pytest.raises(ValueError):
        bleu([["a"]], [[]])


@pytest.mark.parametrize("seed", range(8))
def test_rouge_is_rouge_scores(seed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    rouge = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    one, other = (" ".join(text) for text in texts(seed, 2))
    expected, a, b = rouge.score(other, one), words_of(one), words_of(other)
    for name, found in (("rouge1", rouge_n(a, b, 1)), ("rouge2", rouge_n(a, b, 2)),
                        ("rougeL", rouge_l(a, b))):  # fmt: skip
        assert found.precision == pytest.approx(expected[name].precision), name
        assert found.recall == pytest.approx(expected[name].recall), name
        assert found.f1 == pytest.approx(expected[name].fmeasure), name


def test_distinct_and_self_bleu():
    assert distinct([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3)
    assert self_bleu([WORDS, WORDS, WORDS]) == pytest.approx(100)
    assert self_bleu(texts(0, 5)) < 50
    assert runs("a b a b".split(), 2) == {("a", "b"): 2, ("b", "a"): 1}


@pytest.mark.parametrize("seed", range(5))
def test_a_library_finds_what_was_copied(seed):
    stories = [" ".join(text) for text in texts(seed, 30)]
    text = " ".join(texts(seed + 9, 1, 20, 30)[0])
    library, said = Library(stories), words_of(text)
    brute = max(rouge_n(said, words_of(story), 2).precision for story in stories)
    assert library.copied(text) == pytest.approx(brute, abs=0.06) and library.copied(text) <= brute
    longest = max(
        (n for n in range(2, 30) for story in stories
         if runs(said, n).keys() & runs(words_of(story), n).keys()), default=0,
    )  # fmt: skip
    assert library.longest(text) == longest
    assert library.copied(stories[3]) == 1 and library.longest(stories[3]) == len(
        words_of(stories[3])
    )
    assert library.copied("zebra zoo") == library.longest("zebra zoo") == 0
