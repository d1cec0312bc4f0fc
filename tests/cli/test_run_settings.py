"""Settings of runs from flags and files, names of run folders, and the training data they give."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from minislm.cli.config import DataConfig, MachineConfig, RunConfig
from minislm.cli.data import prepare_data
from minislm.cli.options import Parser, build, only_with
from minislm.cli.run_settings import Settings, new_run, newest_run, settings_from
from minislm.config import ModelConfig, TrainConfig
from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import write_json
from minislm.tasks import TASKS
from minislm.tokenizer import Tokenizer


def test_flags_become_configs_and_only_those_given_count():
    parser = Parser("", DataConfig, RunConfig, MachineConfig, ModelConfig)  # two have --threads
    flags = parser.parse_args(["--windows", "0,256", "--resume", "--threads", "2", "--no-tied"])
    assert vars(flags) == {"windows": (0, 256), "resume": True, "threads": 2, "tied": False}
    model = build(ModelConfig, flags, {"n_layer": 3, "windows": (7,), "steps": 9})
    assert (model.n_layer, model.windows, model.tied, model.width) == (3, (0, 256), False, 256)
    assert build(MachineConfig, flags) == MachineConfig(threads=2)
    assert build(RunConfig, flags) == RunConfig(threads=2, resume=True)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--windows", "0,x"], "--windows"),
        (["--wndows", "0"], "--wndows; did you mean --windows?"),
        (["--zzz"], "unknown flag --zzz; see --help"),
        (["--norm", "batchnorm"], "--norm"),
        (["story.txt"], "unrecognized arguments: story.txt"),
        (["--head", "4"], "unknown flag --head"),  # no abbreviations
    ],
)
def test_a_wrong_flag_is_named(flags, words):
    with pytest.raises(UserError, match=words.replace("?", "[?]")):
        Parser("", ModelConfig).parse_args(flags)


def test_a_flag_of_a_mode_is_refused_without_it():
    with pytest.raises(UserError, match="--prompt-file goes with --score or --study"):
        only_with(argparse.Namespace(prompt_file="x"), ("quick", "prompt_file"), "score", "study")
    only_with(argparse.Namespace(prompt_file="x", study="data"), ("prompt_file",), "score", "study")
    only_with(argparse.Namespace(), ("prompt_file",), "score")


@pytest.mark.parametrize(
    "flags, data, context",
    [
        ({}, dict(stories=6000, vocab=2048, digits="single"), 512),
        ({"data": "x.txt"}, dict(stories=6000, vocab=4096, digits="single"), 512),
        ({"tasks": "copy"}, dict(stories=2, vocab=2048, digits="single"), 512),
        ({"tasks": "copy,unary"}, dict(stories=2, vocab=2048, digits="single"), 512),
        ({"tasks": "unary", "preset": "gpt2", "context": 99, "digits": "merged", "stories": 5},
         dict(stories=5, vocab=2048, digits="merged"), 99),
    ],
)  # fmt: skip
def test_what_flags_leave_open_follows_from_the_others(flags, data, context):
    settings = settings_from(argparse.Namespace(**flags))
    assert {name: getattr(settings.data, name) for name in data} == data
    assert settings.model.context == context


def test_settings_are_read_as_they_were_written(tmp_path):
    assert Settings.read(tmp_path) is None
    flags = argparse.Namespace(windows=(0, 8), clip=1, data="x.txt", threads=3, tasks="parity")
    settings = settings_from(flags)
    contents = settings.as_dict() | {"tasks": ["parity"]}
    assert set(contents) == {"model", "data", "train", "tasks"}
    write_json(tmp_path / "run.json", contents)
    assert Settings.read(tmp_path) == settings and Settings.tasks(tmp_path) == ["parity"]
    contents["train"]["processes"] = 2  # of an earlier version
    write_json(tmp_path / "run.json", contents)
    assert Settings.read(tmp_path) == settings


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s["train"].update(speed=3), "unknown setting 'speed'"),
        (lambda s: s["data"].update(steps=3), "unknown setting 'steps'"),
        (lambda s: s["data"].update(vocab="300"), "vocab is '300'"),
        (lambda s: s["train"].update(dtype="int8"), "--dtype must be one of"),
        (lambda s: s.pop("model"), "'model'"),
    ],
)
def test_a_damaged_run_json_is_refused(change, words, tmp_path):
    contents = settings_from(argparse.Namespace()).as_dict()
    change(contents)
    write_json(tmp_path / "run.json", contents)
    with pytest.raises(CheckpointError, match=f"run.json is damaged .*{words}"):
        Settings.read(tmp_path)
    write_json(tmp_path / "run.json", {"tasks": ["copi"]})
    with pytest.raises(CheckpointError, match="run.json is damaged"):
        Settings.tasks(tmp_path)


def test_a_new_run_has_the_next_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_run("gpt2", None) == Path("runs/gpt2")
    for name, file in (("gpt2", "config.json"), ("gpt2-2", "train_state.pt")):
        write_json(Path("runs") / name / file, {})
    assert new_run("gpt2", None) == Path("runs/gpt2-3")
    assert new_run("gpt2", "runs/mine") == Path("runs/mine")
    with pytest.raises(UserError, match="--out runs/gpt2 holds a run already"):
        new_run("gpt2", "runs/gpt2")
    Path("file").write_text("")
    with pytest.raises(UserError, match="--out file is a file"):
        new_run("gpt2", "file")
    for seconds, newest in ((1, "gpt2"), (3, "old")):
        write_json(Path("runs/old/config.json"), {})
        os.utime("runs/old/config.json", (seconds, seconds))
        os.utime("runs/gpt2/config.json", (2, 2))
        assert newest_run() == Path("runs") / newest
    # A run that was interrupted before its first evaluation has a state and no weights.
    assert newest_run("train_state.pt") == Path("runs/gpt2-2")


def test_tasks_that_a_model_cannot_learn_are_left_out_unless_named(capsys):
    data, train = DataConfig(stories=2, vocab=300, digits="single"), TrainConfig(steps=1)
    settings, tokenizer = (
        Settings(ModelConfig(), data, train, RunConfig()),
        Tokenizer.train([], 257),
    )
    auto = prepare_data(settings, tokenizer)
    err = capsys.readouterr().err
    assert "unary: left out" in err and "count: left out, one block" in err
    assert set(auto.tasks) == set(TASKS) - {"unary", "count"}
    assert len(auto.examples) == 70 * len(auto.tasks)
    named = replace(settings, data=replace(data, tasks="count, unary"))
    both = prepare_data(named, tokenizer)
    assert both.tasks == ["count", "unary"] and 70 < len(both.examples) < 140
    assert "exceed the context of 512 and are left out: i = " in capsys.readouterr().err
    assert max(len(prompt) + len(completion) for prompt, completion in both.examples) <= 512
    deep = replace(named, model=ModelConfig(n_layer=2), data=replace(data, tasks="auto"))
    assert "count" in prepare_data(deep, tokenizer).tasks


def test_progress_has_samples_and_at_most_a_hundred_percent(run_script):
    flags = ["--width", 16, "--n-head", 2, "--n-kv-head", 1, "--vocab", 300, "--stories", 20,
             "--tasks", "none", "--threads", 1]  # fmt: skip
    done = run_script("train.py", *flags, "--minutes", 1e-5, "--json", "r.json")
    assert done.code == 0 and "\n100%  step      1  train loss" in done.err, done.err
    (entry,) = json.loads(Path("r.json").read_text())["models"].values()
    assert entry["seconds"] > 2 * 60 * 1e-5  # the step took longer than the time given
    done = run_script("train.py", *flags, "--steps", 4, "--evals", 2, "--samples", 4)
    lines = [
        line.split()[0]
        for line in done.err.splitlines()
        if "valid loss" in line or "sample:" in line
    ]
    assert lines == ["sample:", "50%", "sample:", "sample:", "100%"]
