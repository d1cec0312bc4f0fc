"""The trends study: its plan, one small model, and the law."""

import numpy as np
import pytest

from minislm.runtime.errors import UserError
from minislm.stories.generate import generate
from minislm.studies import trends
from minislm.studies.config import StudyConfig
from minislm.studies.trends import STUDY, fit, learn, plan, predict, prepared, report


def test_the_plan_has_every_cell_and_every_rate():
    text, models = plan(StudyConfig(study="trends", text="some.txt"))
    assert [trial["kind"] for trial in text] == ["text"]
    grid = {(t["shape"]["width"], t["shape"]["n_layer"], t["part"], t["seed"]) for t in models
            if t["seed"] and t["epochs"] == trends.EPOCHS[t["part"]]}  # fmt: skip
    assert len(grid) == 3 * 3 * 3 * trends.SEEDS
    rates = {(t["shape"]["width"], t["recipe"]["matrix_rate"]) for t in models if not t["seed"]}
    assert rates == {(width, 0.02 * rate) for width in trends.WIDTHS for rate in trends.RATES}
    quick = plan(StudyConfig(study="trends", text="some.txt", quick=True))[1]
    assert {t["shape"]["width"] for t in quick} == {64, 128} and {t["part"] for t in quick} == {
        4,
        16,
    }


def test_it_needs_a_text():
    with pytest.raises(UserError, match="give --data"):
        plan(StudyConfig(study="trends"))


def test_a_law_is_found_and_predicts_a_model_that_it_has_not_seen():
    law = 0.5, 8.0, 0.28, 60.0, 0.44
    points = [(n, d, predict(law, n, d)) for n in (5e4, 2e5, 8e5, 3e6) for d in (1e5, 5e5, 2e6)]
    found = fit(points[:-1])
    assert predict(found, *points[-1][:2]) == pytest.approx(points[-1][2], abs=1e-3)
    assert found[2] == pytest.approx(0.28, abs=0.02) and found[4] == pytest.approx(0.44, abs=0.02)
    assert found[0] == pytest.approx(0.5, abs=0.05)


def test_a_loss_that_does_not_fall_has_no_negative_terms():
    law = fit([(n, d, 1.0 + n / 1e7) for n in (1e4, 1e5, 1e6) for d in (1e4, 1e5, 1e6)])
    assert min(law) >= 0


def test_a_model_learns_its_part_of_the_text_and_is_repeated_to_the_bit(tmp_path):
    stories = [story.text for story in generate(400, 5)]
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(stories), encoding="utf-8")
    total = prepared(str(path), tmp_path)["tokens"]
    shape, recipe = dict(width=64, n_head=2, n_kv_head=0), dict(batch_tokens=2048)
    options = dict(shape=shape, recipe=recipe, part=4, seed=1, data=str(path), folder=tmp_path)
    short, longer = learn(epochs=0.3, **options), learn(epochs=2, **options)
    assert longer["loss"] < short["loss"] == min(short["losses"])
    assert longer["D"] == short["D"] == pytest.approx(total * 0.95 / 4, rel=0.2)
    assert len(longer["losses"]) == 8 and 0 <= longer["right"] <= 1
    assert learn(epochs=0.3, **options) == short
    other = learn(epochs=0.3, **options | {"seed": 2})
    assert other["D"] != short["D"]  # other stories


def row(width, depth, part, seed, loss, n, d, epochs=None):
    trial = dict(kind="model", shape=dict(width=width, n_layer=depth), part=part, seed=seed,
                 recipe=dict(matrix_rate=0.02 * trends.RATE[width]),
                 epochs=epochs or trends.EPOCHS[part])  # fmt: skip
    result = dict(loss=loss, losses=[loss + 0.1, loss, loss + 0.05], right=0.5, steps=7, N=n, D=d)
    return {"trial": trial, "result": result}


def test_the_report_has_every_model_and_predicts_the_corner(tmp_path):
    law, rng = (0.5, 8.0, 0.28, 60.0, 0.44), np.random.default_rng(0)
    rows = [{"trial": {"kind": "text"}, "result": {"tokens": 9}}]
    for width in trends.WIDTHS:
        for depth in trends.DEPTHS:
            for part in trends.EPOCHS:
                n, d = 12 * width**2 * depth, 2_000_000 // part
                rows += [row(width, depth, part, seed, predict(law, n, d) + rng.normal(0, 0.002),
                             n, d) for seed in (1, 2)]  # fmt: skip
    rows.append(row(64, 1, 16, 1, 0.9, 49152, 125000, epochs=24))
    text = report(rows, tmp_path)
    assert text.count("\n| 1/") == 28
    n, d = 12 * 256**2 * 4, 2_000_000
    assert f"N = {n:,} and D = {d:,} was left out" in text
    predicted = float(text.split("was left out: ")[1].split()[0])
    assert predicted == pytest.approx(predict(law, n, d), abs=0.01)
    assert STUDY.report is report
