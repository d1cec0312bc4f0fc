"""Agreement of the scores with human scores, and their sensitivity to corruption."""

import numpy as np
import pytest
from helpers import ROOT, random_model

from minislm.pretrained.load import load
from minislm.runtime.errors import UserError
from minislm.scoring import validation
from minislm.scoring.rules import DIMENSIONS
from minislm.scoring.validation import Agreement, shown, spearman

SHARED = ROOT.parent / "shared" / "tinystories"


@pytest.fixture(scope="module")
def corrupted():
    return validation.sensitivity(count=60)


@pytest.mark.parametrize(
    ("how", "dimension", "least"),
    [
        ("sentences shuffled", "consistency", 0.5),
        ("names swapped", "consistency", 1.2),
        ("text repeated", "creativity", 1.2),
        ("agreement broken", "grammar", 0.6),
        ("required words removed", "instruction", 2.0),
    ],
)
def test_a_corruption_lowers_one_score_and_hardly_another(corrupted, how, dimension, least):
    before, after = corrupted["unchanged"], corrupted[how]
    fall = {name: before[name] - after[name] for name in DIMENSIONS}
    assert fall[dimension] >= least
    for name, lost in fall.items():
        assert name == dimension or abs(lost) < 0.3 * fall[dimension], name


def test_spearman_is_the_correlation_of_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    ranks = [[(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x] for x in (a, b)]
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(a, -a) == pytest.approx(-1) and spearman(a, 0 * a) == 0


def test_a_score_that_does_not_beat_its_baselines_is_not_shown():
    agreements = {
        "grammar": Agreement(0.5, 0.4, 0.1),
        "creativity": Agreement(0.2, 0.3, 0.1),
        "consistency": Agreement(0.2, 0.1, 0.3),
    }
    assert shown(agreements) == ["grammar", "instruction"]
    assert shown(validation.MEASURED) == list(DIMENSIONS)


def test_agreement_is_the_mean_rank_correlation_of_the_categories(human_scores, tokenizer):
    human = validation.read_human(str(human_scores))
    assert {name: len(rows) for name, rows in human.items()} == {
        "Grammar": 4, "Creativity": 4, "Plot": 4, "Factual Knowledge": 4, "Reasoning": 4,
        "Context-Tracking": 4}  # fmt: skip
    model = random_model(vocab_size=tokenizer.vocab_size)
    found = validation.agreement(human, (model, tokenizer))
    assert found["grammar"].score == found["creativity"].score == pytest.approx(1)
    assert found["consistency"].score == pytest.approx((3 - 1) / 4)
    assert all(0 <= value <= 1 for row in found.values() for value in row[1:])


def test_what_has_no_human_scores_is_refused(tmp_path, human_scores):
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    good = human_scores.read_text().splitlines()
    (tmp_path / "short.csv").write_text(f"{good[0]}\n1,Grammar\n")
    (tmp_path / "long.csv").write_text(f"{good[0]}\n{good[1]},1,2,3\n")
    (tmp_path / "empty.csv").write_text(f"{good[0]}\n1,Grammar,It was a day.,He ran,,,,,,,\n")
    for name in ("columns", "none", "short", "long", "empty"):
        with pytest.raises(UserError, match="cannot read human scores"):
            validation.read_human(str(tmp_path / f"{name}.csv"))
    (tmp_path / "few.csv").write_text("\n".join(good[:9]))
    with pytest.raises(UserError, match="lacks the categories Context-Tracking, Factual Knowledge"):
        validation.read_human(str(tmp_path / "few.csv"))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the human scores beside the project")
def test_the_correlations_in_the_module_are_those_measured():
    human = validation.read_human(str(SHARED / "human-scores.csv"))
    found = validation.agreement(human, load(SHARED / "stories260K.bin"))
    for dimension, expected in validation.MEASURED.items():
        assert found[dimension] == pytest.approx(expected, abs=0.006), dimension
