"""Fixtures: texts, a tokenizer, a run folder, and the three scripts."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a real hub
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, with one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers import ROOT, TINY, Outcome, train_in

from minislm.cli import data
from minislm.stories.generate import generate
from minislm.tokenizer import Tokenizer

# A shell that starts the tests in the background makes them ignore Ctrl-C, and with them the
# processes that they start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def stories() -> list[str]:
    return [story.text for story in generate(300, seed=5)]


@pytest.fixture(scope="session")
def tokenizer(stories) -> Tokenizer:
    return Tokenizer.train(stories, vocab_size=400)


@pytest.fixture(scope="session", autouse=True)
def few_held_out_stories():
    """A run in these tests takes a second; evaluating it on 400 stories would take two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "HELD_OUT_STORIES", 20)
        yield


@pytest.fixture
def run_script(capsys, monkeypatch, tmp_path):
    """Run train.py, sample.py or eval.py in this process, in an empty folder, as a user would."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        threads, code = torch.get_num_threads(), 0
        capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            torch.set_num_threads(threads)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A run folder made by train.py: a few steps of a very small model on generated stories."""
    folder = tmp_path_factory.mktemp("project")
    train_in(folder, *TINY, "--stories", 60, "--steps", 6, "--evals", 2, "--samples", 1,
             "--tasks", "copy,parity", "--out", "runs/tiny")  # fmt: skip
    return folder / "runs" / "tiny"


@pytest.fixture(scope="session")
def few_stories(tmp_path_factory) -> Path:
    """A validation text, for runs in processes of their own."""
    path = tmp_path_factory.mktemp("text") / "valid.txt"
    texts = [story.text for story in generate(10, seed=99)]
    path.write_text("".join(f"{text}\n<|endoftext|>\n" for text in texts))
    return path
