"""BLEU and ROUGE are those of sacrebleu and rouge-score, on random texts."""

import random

import pytest

from minislm.scoring.ngrams import NgramIndex, bleu, distinct, ngrams, rouge_n, self_bleu, words_of

WORDS = "the cat sat on a red mat and saw one big dog run to Tom .".split()


def texts(seed, count, low=4, high=30):
    rng = random.Random(seed)
    return [[rng.choice(WORDS) for _ in range(rng.randint(low, high))] for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_references", [1, 3])
def test_bleu_is_that_of_sacrebleu(seed, n_references):
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses = texts(seed, 7)
    if seed % 2:  # something in common beyond chance
        hypotheses = [ref[:10] + each for ref, each in zip(texts(seed + 100, 7), hypotheses)]
    references = [texts(seed + 100 * (k + 1), 7) for k in range(n_references)]
    expected = sacrebleu.corpus_bleu(
        [" ".join(each) for each in hypotheses],
        [[" ".join(each) for each in refs] for refs in references], tokenize="none",
    )  # fmt: skip
    assert bleu(hypotheses, list(zip(*references))) == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_bleu_of_a_sentence_without_long_matches_is_smoothed_as_sacrebleu_does(seed):
    sacrebleu = pytest.importorskip("sacrebleu")
    (own,), (reference,) = texts(seed, 1, 4, 9), texts(seed + 50, 1, 4, 9)
    expected = sacrebleu.corpus_bleu([" ".join(own)], [[" ".join(reference)]], tokenize="none")
    assert bleu([own], [[reference]]) == pytest.approx(expected.score, abs=1e-9)


def test_bleu_refuses_what_has_no_reference():
    assert bleu([["a"]], [[["b"]]]) == 0
    for references in ([[]], []):
        with pytest.raises(ValueError):
            bleu([["a"]], references)


@pytest.mark.parametrize("seed", range(8))
def test_rouge_is_that_of_rouge_score(seed):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    rouge = scorer.RougeScorer(["rouge1", "rouge2"], use_stemmer=False)
    text, reference = (" ".join(each) for each in texts(seed, 2))
    expected = rouge.score(reference, text)
    for n in (1, 2):
        found = rouge_n(words_of(text), words_of(reference), n)
        assert found == pytest.approx(expected[f"rouge{n}"][:2]), n  # precision, recall


def test_distinct_and_self_bleu():
    assert distinct([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3)
    assert self_bleu([WORDS, WORDS, WORDS]) == pytest.approx(100)
    assert self_bleu(texts(0, 5)) < 50
    assert ngrams("a b a b".split(), 2) == {("a", "b"): 2, ("b", "a"): 1}


@pytest.mark.parametrize("seed", range(5))
def test_an_index_finds_what_was_copied(seed):
    stories = [" ".join(text) for text in texts(seed, 30)]
    text = " ".join(texts(seed + 9, 1, 20, 30)[0])
    index, words = NgramIndex(stories), words_of(text)
    brute = max(rouge_n(words, words_of(story), 2)[0] for story in stories)
    assert index.rouge_2(text) == pytest.approx(brute, abs=0.06) and index.rouge_2(text) <= brute
    longest = max(
        (n for n in range(2, 30) for story in stories
         if ngrams(words, n).keys() & ngrams(words_of(story), n).keys()), default=0,
    )  # fmt: skip
    assert index.longest_copied(text) == longest
    assert index.rouge_2(stories[3]) == 1
    assert index.longest_copied(stories[3]) == len(words_of(stories[3]))
    assert index.rouge_2("zebra zoo") == index.longest_copied("zebra zoo") == 0


def test_a_run_ends_at_the_end_of_a_word():
    index = NgramIndex(["on the mattress", "the mat is red"])
    assert index.longest_copied("on the mat") == 2


def test_the_nearest_story_may_have_fewer_different_pairs_in_common():
    text, stories = "a b a b a b c d e", ["b c d e", "a b a b a b"]
    assert NgramIndex(stories).rouge_2(text) == pytest.approx(5 / 8)
