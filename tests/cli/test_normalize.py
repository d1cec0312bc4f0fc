"""Runs with --normalize: what is recorded, measured, resumed and refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY

from minislm.cli.config import DataConfig, EvalConfig, RunConfig
from minislm.cli.data import measured_text, prepare_data
from minislm.cli.run_settings import Settings
from minislm.cli.score import _training_text
from minislm.config import ModelConfig, TrainConfig
from minislm.corpus.words import normalizer
from minislm.runtime.files import write_json

LIBRARIES = {"stem": "snowballstemmer", "lemma": "simplemma"}
RUN = [*TINY, "--samples", 0, "--tasks", "none", "--evals", 1, "--steps", 2, "--out", "run"]


@pytest.fixture(params=["stem", "lemma"])
def kind(request):
    pytest.importorskip(LIBRARIES[request.param], reason="the extra `normalize` is not installed")
    return request.param


def settings(kind, **options) -> Settings:
    data = DataConfig(vocab=400, digits="single", tasks="none", normalize=kind, **options)
    return Settings(ModelConfig(), data, TrainConfig(steps=1), RunConfig())


def texts_of(dataset, tokenizer) -> list[str]:
    return [tokenizer.decode(dataset.document(i)[:-1].tolist()) for i in range(len(dataset))]


def figures(file) -> dict:
    return next(iter(json.loads(Path(file).read_text())["models"].values()))


@pytest.mark.parametrize("source", ["file", "generated"])
def test_a_run_records_keeps_and_measures_it(kind, run_script, stories, source):
    Path("all.txt").write_text("<|endoftext|>".join(stories[:60]))
    texts = ["--data", "all.txt"] if source == "file" else ["--stories", 60]
    done = run_script("train.py", *texts, *RUN, "--normalize", kind, "--json", "t.json")
    assert done.code == 0, done.err
    assert json.loads(Path("run/run.json").read_text())["data"]["normalize"] == kind
    done = run_script("eval.py", "--model", "run", "--json", "e.json")
    assert done.code == 0, done.err
    trained, again = figures("t.json"), figures("e.json")
    assert again["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-5)
    if source == "generated":
        return
    own = run_script("eval.py", "--model", "run", "--data", "all.txt", "--json", "o.json")
    assert own.code == 0, own.err
    assert run_script("sample.py", "--model", "run", "--prompt", "The dogs").code == 0
    other = run_script("train.py", "--resume", "--out", "run", "--normalize", "none")
    assert other.code == 2 and f"--normalize none differs from {kind}" in other.err
    done = run_script("train.py", "--resume", "--out", "run", "--steps", 3)
    assert done.code == 0, done.err
    assert Settings.read("run").data.normalize == kind


def test_training_and_validation_text_have_original_bytes(kind, tmp_path, monkeypatch, stories):
    monkeypatch.chdir(tmp_path)
    Path("all.txt").write_text("<|endoftext|>".join(stories[:40]))
    Path("valid.txt").write_text("<|endoftext|>".join(stories[40:50]))
    replace = normalizer(kind)
    for run, valid in (
        (settings(kind, data="all.txt", valid="valid.txt"), stories[40:50]),
        (settings(kind, data="all.txt"), stories[38:40]),
    ):
        data = prepare_data(run)
        measured = measured_text(run, data.tokenizer, EvalConfig())
        other = measured_text(run, data.tokenizer, EvalConfig(data="valid.txt"))
        for found, texts in ((data.valid, valid), (measured, valid), (other, stories[40:50])):
            assert texts_of(found, data.tokenizer) == [*map(replace, texts)]
            assert found.sizes.tolist() == [len(text.encode()) for text in texts]
        assert texts_of(data.train, data.tokenizer)[0] == replace(stories[0]) != stories[0]
        plain = measured_text(None, data.tokenizer, EvalConfig(data="valid.txt"))
        assert texts_of(plain, data.tokenizer) == stories[40:50]  # a model without settings


def test_generated_stories_and_their_size(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, plain = (prepare_data(settings(each, stories=30)) for each in (kind, "none"))
    for own, original in ((made.train, plain.train), (made.valid, plain.valid)):
        texts = texts_of(original, plain.tokenizer)
        assert np.array_equal(own.sizes, original.sizes)
        assert texts_of(own, made.tokenizer) == [*map(normalizer(kind), texts)]


def test_a_single_document_is_cut_before_it_is_normalised(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = "\n\n".join(f"The dogs were running to {n} boxes." for n in range(60))
    Path("one.txt").write_text(whole)
    run = settings(kind, data="one.txt")
    data = prepare_data(run)
    assert data.train.bytes + data.valid.bytes == len(whole)
    parts = [texts_of(part, data.tokenizer) for part in (data.train, data.valid)]
    assert "".join(sum(parts, [])) == normalizer(kind)(whole)
    measured = measured_text(run, data.tokenizer, EvalConfig())
    assert measured.sizes.tolist() == data.valid.sizes.tolist()


def test_copies_are_found_in_the_normalised_training_text(kind, tmp_path, stories):
    path = tmp_path / "all.txt"
    path.write_text("<|endoftext|>".join(stories[:5]))
    run = settings(kind, data=str(path))
    write_json(tmp_path / "run" / "run.json", run.as_dict() | {"tasks": []})
    index = _training_text(str(tmp_path / "run"), None)
    assert index.rouge_2(normalizer(kind)(stories[1])) == 1.0


@pytest.mark.parametrize("kind", LIBRARIES)
@pytest.mark.parametrize("flags", [["--stories", 20], ["--data", "all.txt"]])
def test_a_missing_library_is_one_line_and_leaves_no_run(
    kind, flags, run_script, stories, monkeypatch
):
    Path("all.txt").write_text("<|endoftext|>".join(stories[:20]))
    monkeypatch.setitem(sys.modules, LIBRARIES[kind], None)  # as if it were not installed
    done = run_script("train.py", *flags, *RUN, "--normalize", kind)
    (line,) = done.err.splitlines()
    assert done.code == 2 and f"pip install {LIBRARIES[kind]}" in line
    assert not Path("run").exists()


def test_an_unknown_setting_is_refused(run_script):
    done = run_script("train.py", *RUN, "--normalize", "stems")
    assert done.code == 2 and "--normalize" in done.err and len(done.err.splitlines()) == 1
