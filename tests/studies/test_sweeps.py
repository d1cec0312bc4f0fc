"""The sweeps: what is planned and reported, losses by word class, and each study in miniature."""

import re

import numpy as np
import pytest
from helpers import random_model

from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.stories.generate import generate
from minislm.stories.lexicon import WORD_CLASSES
from minislm.studies import sweeps, variants
from minislm.studies.config import StudyConfig
from minislm.studies.runner import run_study
from minislm.studies.sweeps import STUDIES, by_class, encode, parts, select, sweep, table

VALUES = {"rate": (0.1, 0.2, 0.4), "size": (8, 16), "seed of the data": (3,)}


def doubled(settings, seed, steps, folder):
    return {"loss": settings["rate"] * 100 + seed, "size": settings["size"], "steps": steps}


def test_a_sweep_changes_one_setting_at_a_time(tmp_path):
    seen = []

    def describe(axes, folder):
        seen.append(axes)
        return table("rate", axes["rate"], {"loss": ".1f", "size": ".0f"}, ["loss"])

    study = sweep(VALUES, {"rate": (0.1, 0.4)}, (7, 2), doubled, describe)
    settings = [(each["settings"]["rate"], each["settings"]["size"])
                for each in study.plan(StudyConfig(seeds=1))[0]]  # fmt: skip
    assert settings == [(0.1, 8), (0.2, 8), (0.4, 8), (0.1, 16)]  # the base run comes once
    quick = study.plan(StudyConfig(quick=True))[0]
    assert [(e["settings"]["rate"], e["seed"]) for e in quick] == [(0.1, 0), (0.1, 1), (0.4, 0),
                                                                  (0.4, 1)]  # fmt: skip
    assert {each["steps"] for each in quick} == {2}

    text = run_study(
        "x", study, StudyConfig(seeds=3, out=str(tmp_path), processes=1), ""
    ).read_text()
    (axes,) = seen
    assert set(axes) == {"rate", "size"}  # a setting of one value is no axis
    assert list(axes["rate"]) == [0.1, 0.2, 0.4] and list(axes["size"]) == [8, 16]
    assert [each["loss"] for each in axes["rate"][0.2]] == [20, 21, 22]
    assert axes["size"][8] == axes["rate"][0.1]  # the base run belongs to every axis
    # Mean and Student's interval of 10, 11, 12: 11 -+ 4.303 / sqrt(3)
    assert "| 0.1 | 11.0 (8.5 to 13.5) | 8 |" in text
    assert "| 0.2 | 21.0 (18.5 to 23.5) * | 8 |" in text  # no overlap with the first row's


def test_a_star_needs_intervals_that_do_not_overlap():
    rows = {"base": [{"x": 1.0}, {"x": 2.0}], "near": [{"x": 2.0}, {"x": 3.0}],
            "far": [{"x": 90.0}, {"x": 91.0}], "below": [{"x": -90.0}, {"x": -91.0}]}  # fmt: skip
    lines = table("run", rows, {"x": ".1f"}, ["x"]).splitlines()[2:]
    assert ["*" in line for line in lines] == [False, False, True, True]
    alone = {name: results[:1] for name, results in rows.items()}
    assert "*" not in table("run", alone, {"x": ".1f"}, ["x"])  # one seed proves nothing


def test_losses_by_class_add_up_to_the_loss(tokenizer):
    stories = list(generate(12, 3, numbers=0.5))
    model = random_model(vocab_size=tokenizer.vocab_size, context=1024)
    rows = [([tokenizer.eot_id], parts(story)) for story in stories]
    found = by_class(model, tokenizer, rows, "these")
    loss, accuracy, tokens = (found[f"{name} on these"] for name in ("loss", "accuracy", "tokens"))
    dataset = TokenDataset.from_texts((story.text for story in stories), tokenizer)
    total = text_loss(model, dataset, tokenizer.eot_id)
    assert sum(loss[c] * tokens[c] for c in WORD_CLASSES) == pytest.approx(total.nats, rel=1e-5)
    assert sum(tokens.values()) == total.tokens
    assert all(0 <= accuracy[c] <= 1 for c in WORD_CLASSES)


def test_a_token_has_the_class_of_its_word(tokenizer):
    story = next(generate(1, 0, numbers=1.0))
    ids, classes = encode(parts(story), tokenizer)
    assert ids == tokenizer.encode(story.text) + [tokenizer.eot_id] and len(classes) == len(ids)
    text = {name: "" for name in WORD_CLASSES}
    for token, c in zip(ids[:-1], classes):
        text[WORD_CLASSES[c]] += tokenizer.decode([token])
    for name in WORD_CLASSES:
        words = "".join(w.text for w in story.words if w.word_class == name)
        assert "".join(text[name].split()) == "".join(words.split()), name


def test_selected_stories_have_more_of_the_class():
    def fraction(balance, word_class):
        stories = select(balance, 50, 0)
        assert len(stories) == 50
        return np.mean([w.word_class == word_class for s in stories for w in s.words])

    assert fraction("more adjectives", "adjective") > 1.15 * fraction("as they come", "adjective")
    assert fraction("more numbers", "number") > 1.5 * fraction("as they come", "number")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_in_miniature(name, monkeypatch, tmp_path):
    few = {"HELD_OUT": 4, "CLASS_STORIES": 4, "CONTINUATIONS": 2, "TUNING_STEPS": 1,
           "TASKS": ("parity",)}  # fmt: skip
    for constant, value in few.items():
        monkeypatch.setattr(sweeps, constant, value)
    monkeypatch.setattr(variants, "TOKENIZER_STORIES", 60)
    small = dict(n_head=2, n_kv_head=0, width=32)
    for shape, layers in (("one block", 1), ("two blocks", 2)):
        monkeypatch.setitem(variants.SHAPES, shape, small | {"n_layer": layers})
    real = STUDIES[name]

    def plan(config):
        return [[each | {"steps": 1, "settings": each["settings"] | {"stories": 30}}
                 for each in phase] for phase in real.plan(config)]  # fmt: skip

    config = StudyConfig(study=name, quick=True, seeds=2, processes=1, out=str(tmp_path))
    text = run_study(name, real._replace(plan=plan), config, "it").read_text()
    plots = re.findall(r"\]\((.*?\.png)\)", text)
    assert "| --- |" in text and plots
    assert all((tmp_path / file).is_file() for file in plots)
