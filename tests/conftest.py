"""What several tests need: a small model, a tokenizer, a run folder, and the three scripts."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a real hub
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: one thread is each one's share
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from minislm.cli import evaluate as compare
from minislm.cli import train as pipeline
from minislm.config import ModelConfig
from minislm.model import Transformer
from minislm.stories.generate import generate
from minislm.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them the
# processes that they start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def random_model(seed: int = 0, **knobs) -> Transformer:
    """A small model whose weights are large enough that its logits differ by position."""
    shape = dict(vocab_size=300, width=64, n_head=4, n_kv_head=2, n_layer=2, context=128)
    model = Transformer(ModelConfig(**(shape | knobs)))
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.15, generator=generator)
    return model.eval()


@torch.inference_mode()
def prompts_of(lengths, seed=0):
    """Prompts of random tokens, one of each length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (n,), generator=generator).tolist() for n in lengths]


def brute_force(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    """Greedy by the loop everybody can check: the whole text anew for every token, no cache."""
    tokens = torch.tensor([ids])
    for _ in range(count):
        tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    return tokens[0, len(ids) :].tolist()


@pytest.fixture(scope="session")
def stories() -> list[str]:
    return [story.text for story in generate(300, seed=5)]


@pytest.fixture(scope="session")
def tokenizer(stories) -> Tokenizer:
    return Tokenizer.train(stories, vocab_size=400)


@pytest.fixture(scope="session", autouse=True)
def few_held_out_stories():
    """A run in these tests is over in a second; measuring it on 400 stories would take two."""
    with pytest.MonkeyPatch.context() as patch:
        for room in (compare, pipeline):
            patch.setattr(room, "HELD_OUT_STORIES", 20)
        yield


@dataclass
class Outcome:
    code: int
    out: str
    err: str


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


TINY = (
    "--width 32 --n-head 4 --n-kv-head 2 --context 320 --vocab 300 --batch-tokens 512 --threads 1"
).split()


def train_in(folder: Path, *flags: object) -> None:
    """A whole run of train.py in this process, for fixtures that several tests look at."""
    here, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["train.py", *map(str, flags)]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    finally:
        os.chdir(here)
        sys.argv = argv


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A run folder made by train.py: a few steps of a very small model on generated stories."""
    folder = tmp_path_factory.mktemp("project")
    train_in(folder, *TINY, "--stories", 60, "--steps", 6, "--evals", 2, "--samples", 1,
             "--tasks", "copy,parity", "--out", "runs/tiny")  # fmt: skip
    return folder / "runs" / "tiny"


@pytest.fixture(scope="session")
def few_stories(tmp_path_factory) -> Path:
    """A text to validate on, for runs in processes of their own."""
    path = tmp_path_factory.mktemp("text") / "valid.txt"
    texts = [story.text for story in generate(10, seed=99)]
    path.write_text("".join(f"{text}\n<|endoftext|>\n" for text in texts))
    return path
