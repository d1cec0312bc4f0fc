"""Run folders of an earlier version load, resume and sample.

old_runs/ has one run of each preset, very small, made by train.py of commit 2393348, which also
wrote the figures in expected.json: the loss of the saved weights on fixed tokens, and the training
loss (an average over many steps) after ten more steps.
"""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import read_metrics
from torch.nn import functional as F

from minislm import checkpoint, load

FOLDER = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("preset", EXPECTED)
def test_an_old_run_loads_resumes_and_samples(run_script, preset):
    run = Path("runs") / preset
    zipfile.ZipFile(FOLDER / f"{preset}.zip").extractall(run)
    model, _ = load(run)
    tokens = torch.arange(1, 61)[None]
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
    assert loss.item() == pytest.approx(EXPECTED[preset]["loss"], abs=1e-4)

    done = run_script("sample.py", "--prompt", "Once upon", "--max-new-tokens", 20)
    assert done.code == 0 and done.out.startswith("Once upon"), done.err

    before = checkpoint.load_state(run)["model"]
    done = run_script("train.py", "--resume", "--steps", 90)
    assert done.code == 0, done.err
    after = checkpoint.load_state(run)
    assert after["step"] == 90 and any(
        not torch.equal(before[k], after["model"][k]) for k in before
    )
    records = read_metrics(run)
    assert [record["step"] for record in records] == [40, 80, 90]
    assert records[-1]["train_loss"] == pytest.approx(EXPECTED[preset]["train_loss"], rel=0.01)
