"""Agreement of the scores with human scores, and their sensitivity to corruption."""

import random
import re
from collections.abc import Iterable
from statistics import fmean

import numpy as np
import pytest
from helpers import ROOT, random_model

from minislm.pretrained.load import load
from minislm.runtime.errors import UserError
from minislm.scoring import rules, validation
from minislm.scoring.ngrams import words_of
from minislm.scoring.rules import DIMENSIONS, WEIGHTS, measure
from minislm.scoring.validation import shown, spearman
from minislm.stories.generate import generate
from minislm.stories.lexicon import words

SHARED = ROOT.parent / "shared" / "tinystories"


def sensitivity(count: int, seed: int = 3_000_000) -> dict[str, dict[str, float]]:
    """The mean scores of generated stories, unchanged and corrupted in five ways."""
    rng, stories = random.Random(seed), list(generate(count, seed))
    texts = [rules.split_beginning(story.text) for story in stories]
    wrong = generate(count, seed, agreement_errors=1.0)
    parts = [rules.sentences(text) for _, text in texts]
    versions = {
        "unchanged": texts,
        "sentences shuffled": [(p, " ".join(rng.sample(each, len(each))))
                               for (p, _), each in zip(texts, parts)],
        "names swapped": [(p, _swap_names(p, t, rng)) for p, t in texts],
        "text repeated": [(p, f"{t} {t}") for p, t in texts],
        "agreement broken": [rules.split_beginning(story.text) for story in wrong],
        "required words removed": [(p, _remove(t, story.required))
                                   for (p, t), story in zip(texts, stories)],
    }  # fmt: skip
    found = {}
    for name, pairs in versions.items():
        measures = [rules.measure(*pair) for pair in pairs]
        found[name] = {d: fmean(getattr(m, d) for m in measures) for d in rules.DIMENSIONS[:-1]}
        found[name]["instruction"] = fmean(rules.instruction(s.required, s.features, text)
                                           for s, (_, text) in zip(stories, pairs))  # fmt: skip
    return found


def _remove(text: str, required: Iterable[str]) -> str:
    """Every form of the required words is replaced with "it"."""
    stems = {rules.stem(word) for word in required}
    return re.sub(r"[A-Za-z]+", lambda m: "it" if rules.stem(m[0].lower()) in stems else m[0], text)


def _swap_names(prompt: str, text: str, rng: random.Random) -> str:
    """Every occurrence of a name becomes a random name that the story does not have."""
    present, known = {*rules.names(prompt), *rules.names(text)}, {*words.boys, *words.girls}
    others = [name for name in (*words.boys, *words.girls) if name not in present]
    return re.sub("[A-Z][a-z]+", lambda m: rng.choice(others) if m[0] in known else m[0], text)


@pytest.fixture(scope="module")
def corrupted():
    return sensitivity(count=60)  # the table of the README: 200


@pytest.mark.parametrize(
    ("how", "lowered", "least"),
    [
        ("names swapped", {"context", "plot"}, 0.8),
        ("text repeated", {"repetition", "creativity", "context", "plot"}, 1.2),
        ("agreement broken", {"grammar"}, 0.6),
        ("required words removed", {"instruction"}, 2.0),
    ],
)
def test_a_corruption_lowers_its_scores_and_hardly_another(corrupted, how, lowered, least):
    before, after = corrupted["unchanged"], corrupted[how]
    fall = {name: before[name] - after[name] for name in DIMENSIONS}
    for name, lost in fall.items():
        assert lost >= least if name in lowered else abs(lost) < 0.3 * least, name


def test_the_corruptions_are_those_that_they_are_called(corrupted):
    assert corrupted["unchanged"]["grammar"] > corrupted["sentences shuffled"]["grammar"]
    assert corrupted["unchanged"]["repetition"] > 9.5


def test_spearman_is_the_correlation_of_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    ranks = [[(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x] for x in (a, b)]
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(a, -a) == pytest.approx(-1) and spearman(a, 0 * a) == 0


def test_a_score_that_does_not_surely_beat_its_baselines_is_not_shown():
    agreements = {name: [(0.5, 0.4, 0.6)] * 4 for name in ("grammar", "creativity", "plot")}
    agreements["grammar"].append((0.1, 0.01, 0.2))
    agreements["creativity"].append((0.1, -0.01, 0.2))
    agreements["plot"].append((-0.1, -0.2, -0.01))
    assert shown(agreements) == ["repetition", "grammar", "context", "instruction"]


def held_out(dimension, rows):
    """A score on each prompt, fitted to the others with a penalty of 10, by another algorithm."""
    measures = [measure(prompt, text) for prompt, text, _ in rows]
    values = np.array([[getattr(m, n) for n in WEIGHTS[dimension][1]] for m in measures])
    means, found = np.array([mean for *_, mean in rows]), []
    for row, (prompt, *_) in zip(values, rows):
        keep = np.array([other != prompt for other, *_ in rows])
        center, deviation = values[keep].mean(0), values[keep].std(0) + 1e-9
        extra = np.sqrt(10) * np.eye(values.shape[1])
        a = np.vstack([(values[keep] - center) / deviation, extra])
        b = np.concatenate([means[keep] - means[keep].mean(), np.zeros(len(extra))])
        fitted = np.linalg.lstsq(a, b, rcond=None)[0]
        found.append(10 * (means[keep].mean() + (row - center) / deviation @ fitted))
    return np.clip(found, 0, 10)


def test_agreement_is_the_rank_correlation_on_prompts_held_out(human_scores, tokenizer):
    human = validation.read_human(str(human_scores))
    assert {name: len(rows) for name, rows in human.items()} == {
        "Grammar": 16, "Creativity": 16, "Plot": 16, "Context-Tracking": 16}  # fmt: skip
    rng = np.random.default_rng(0)
    human["Plot"] = [(p, t, mean + rng.normal()) for p, t, mean in human["Plot"]]
    model = random_model(vocab_size=tokenizer.vocab_size)
    found, weights = validation.agreement(human, (model, tokenizer))
    for dimension in ("grammar", "creativity"):
        assert found[dimension][0] == pytest.approx((1, 1, 1))
    for dimension, category in (("context", "Context-Tracking"), ("plot", "Plot")):
        means = [mean for *_, mean in human[category]]
        by_hand = spearman(held_out(dimension, human[category]), means)
        assert found[dimension][0][0] == pytest.approx(by_hand, abs=0.02)
        values = [getattr(measure(p, t), dimension) for p, t, _ in human[category]]
        assert abs(by_hand - spearman(values, means)) > 0.03  # not the committed weights
    assert weights.keys() == WEIGHTS.keys()
    assert all(weights[name][1].keys() == WEIGHTS[name][1].keys() for name in weights)
    length = [len(words_of(text)) for _, text, _ in human["Grammar"]]
    expected = spearman(length, [mean for *_, mean in human["Grammar"]])
    assert found["grammar"][1][0] == pytest.approx(abs(expected)) and len(found["plot"]) == 5


def test_intervals_resample_prompts():
    rng = np.random.default_rng(1)
    columns, means, prompts = rng.normal(size=(4, 30)), rng.normal(size=30), np.arange(30) // 3
    columns[0] += 2 * means
    columns[2] -= means
    found = validation._intervals(columns, means, prompts)
    copies = [np.repeat(each, 5, axis=-1) for each in (columns, means, prompts)]
    assert np.allclose(validation._intervals(*copies), found)  # copies add nothing
    assert all(low < value < high for value, low, high in found)
    by_hand = [spearman(each, means) for each in columns]
    assert by_hand[2] < 0
    assert [row[0] for row in found[:4]] == pytest.approx([by_hand[0], *map(abs, by_hand[1:])])
    assert found[4][0] == pytest.approx(by_hand[0] - max(map(abs, by_hand[1:])))
    single = validation._intervals(columns, means, np.arange(30))
    assert single[0] != found[0]


def test_what_has_no_human_scores_is_refused(tmp_path, human_scores):
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    good = human_scores.read_text().splitlines()
    (tmp_path / "short.csv").write_text(f"{good[0]}\n1,Grammar\n")
    (tmp_path / "long.csv").write_text(f"{good[0]}\n{good[1]},1,2,3\n")
    (tmp_path / "empty.csv").write_text(f"{good[0]}\n1,Grammar,It was a day.,He ran,,,,,\n")
    for name in ("columns", "none", "short", "long", "empty"):
        with pytest.raises(UserError, match="cannot read human scores"):
            validation.read_human(str(tmp_path / f"{name}.csv"))
    (tmp_path / "few.csv").write_text("\n".join(good[:36]))
    with pytest.raises(UserError, match="fewer than two prompts of Context-Tracking, Plot"):
        validation.read_human(str(tmp_path / "few.csv"))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the human scores beside the project")
def test_the_measured_figures_are_those_of_the_command():
    human = validation.read_human(str(SHARED / "human-scores.csv"))
    found, weights = validation.agreement(human, load(SHARED / "stories260K.bin"))
    assert shown(found) == validation.SHOWN and weights == WEIGHTS
    readme = (ROOT / "minislm" / "scoring" / "README.md").read_text()
    for dimension, row in found.items():
        cells = ("{:.2f} ({:.2f} to {:.2f})".format(*cell) for cell in row)
        assert f"| {dimension} | {' | '.join(cells)} | no |" in readme, dimension
