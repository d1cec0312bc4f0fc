"""The core and runtime, copied without the rest of the package, are a whole language model."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

# What a reader could type into a file of their own, with minislm/*.py and minislm/runtime/ alone.
PROGRAM = """
import sys
from pathlib import Path

import torch

from minislm import checkpoint
from minislm.config import ModelConfig, SampleConfig, TrainConfig
from minislm.dataset import Batches, TokenDataset, hold_out, read_documents
from minislm.evaluation import exact_match, text_loss
from minislm.model import Transformer
from minislm.sampler import Sampler
from minislm.tasks import encode_pair, pairs
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer

run, stop_at, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
texts = list(read_documents("text.txt"))
tokenizer = Tokenizer.load(run) if resume else Tokenizer.train(texts, 300)
train, valid = hold_out(TokenDataset.from_texts(texts, tokenizer))
examples = [encode_pair(tokenizer, pair) for pair in pairs("copy", "train")]
torch.manual_seed(0)
config = ModelConfig(width=32, n_head=4, n_kv_head=2, context=64, vocab_size=tokenizer.vocab_size,
                     dropout=0.1)
batches = Batches(train, context=64, batch_tokens=512, eot_id=tokenizer.eot_id, examples=examples)
trainer = Trainer(Transformer(config), batches, TrainConfig(steps=50, evals=5), run=run,
                  valid=valid, tokenizer=tokenizer)
if resume:
    trainer.restore(checkpoint.load_state(run))


def on_step():
    trainer.stopped = trainer.progress.step == stop_at


assert trainer.train(on_step).step == min(stop_at, 50)
model, tokenizer = checkpoint.load_model(run)
sampler = Sampler(model, tokenizer)
prompts = ["Once", "One day, a girl", ""]
settings = SampleConfig(max_new_tokens=12, seed=3)
together = sampler.generate(prompts, settings)
assert together == [sampler.generate([prompt], settings)[0] for prompt in prompts]
print(exact_match(sampler, ["copy"])["copy"])
print(text_loss(model, valid, tokenizer.eot_id).bits_per_byte, "bits per byte")
print(sorted(name for name in sys.modules if name.startswith("minislm.")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stories):
    """A folder with the core and runtime of the package, a text and the program."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "minislm").mkdir()
    for path in (ROOT / "minislm").glob("*.py"):
        shutil.copy(path, folder / "minislm")
    shutil.copytree(ROOT / "minislm" / "runtime", folder / "minislm" / "runtime")
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(stories[:100]))
    (folder / "program.py").write_text(PROGRAM)
    return folder


def run(folder, name, stop_at, mode="new"):
    done = subprocess.run(
        [sys.executable, "-P", "program.py", name, str(stop_at), mode], cwd=folder, text=True,
        capture_output=True, env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_trains_resumes_samples_and_evaluates_alone(folder):
    import torch

    from minislm import checkpoint

    whole = run(folder, "whole", 99)
    run(folder, "parts", 23)
    assert checkpoint.load_state(folder / "parts")["step"] == 23
    assert run(folder, "parts", 99, "resume") == whole
    one, other = (checkpoint.load_state(folder / name)["model"] for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    score, loss, modules = whole.splitlines()
    assert score.startswith("TaskScore(train=(") and "70)" in score and "30)" in score
    assert 1.0 < float(loss.split()[0]) < 6.0
    assert "minislm.training" in modules and "minislm.fast" not in modules
