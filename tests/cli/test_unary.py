"""`python train.py --tasks unary`: the preset that solves the reference task."""

import io
import json
from contextlib import redirect_stdout

import pytest
from helpers import train_in

from minislm import FastSampler, Sampler, load
from minislm.checkpoint import load_state
from minislm.cli.config import DataConfig, RunConfig
from minislm.cli.options import Parser
from minislm.cli.run_settings import settings_from
from minislm.config import ModelConfig, TrainConfig
from minislm.runtime.errors import UserError
from minislm.tasks import pairs

FEW = ["--tasks", "unary", "--steps", "6", "--threads", "1", "--context", "420"]


def settings(*flags):
    parser = Parser("", DataConfig, TrainConfig, RunConfig, ModelConfig)
    return settings_from(parser.parse_args(list(flags)))


def test_unary_alone_takes_the_preset_by_itself():
    own = settings("--tasks", "unary")
    assert own.run.preset == "unary" and own.run.dtype == "float32"
    assert (own.model.position, own.model.n_layer, own.model.qk_scale) == ("run", 1, 18.0)
    assert (own.data.vocab, own.data.digits, own.train.minutes) == (257, "single", None)
    assert own.train.curriculum and own.train.steps
    assert settings("--preset", "unary") == own  # and the preset takes the task
    assert settings("--tasks", "unary", "--minutes", "2").train.steps is None
    assert settings("--tasks", "unary", "--n-layer", "2").model.n_layer == 2
    other = settings("--tasks", "unary", "--preset", "one-block")
    assert other.model.position == "rotary" and not other.train.curriculum
    assert settings("--tasks", "unary,copy").run.preset == "one-block"


@pytest.mark.parametrize(
    "flags", [["--data", "x.txt"], ["--pairs", "x.jsonl"], ["--tasks", "none"]]
)
def test_it_trains_on_pairs_alone(flags):
    with pytest.raises(UserError, match=f"leave out {flags[0]}"):
        settings("--preset", "unary", *flags)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unary")
    with redirect_stdout(io.StringIO()) as out:
        train_in(folder, *FEW, "--out", "run", "--json", "result.json")
    assert out.getvalue().strip().endswith("python eval.py --study generalization")
    return folder / "run"


def test_the_run_is_a_folder_that_loads_and_is_sampled(run):
    model, tokenizer = load(run)
    assert json.loads((run / "config.json").read_text())["model_type"] == "minislm"
    assert model.config.run_tokens == tokenizer.digit_ids and len(tokenizer.digit_ids) == 10
    prompts = [pair.prompt for pair in pairs("unary")[:3]]
    options = dict(max_new_tokens=30, temperature=0.9, seed=2)
    texts = Sampler(model, tokenizer).generate(prompts, **options)
    assert FastSampler(model, tokenizer).generate(prompts, **options) == texts
    assert texts[1] == Sampler(model, tokenizer).generate(prompts[1:2], **options)[0]


def test_its_result_has_both_splits_of_the_task(run):
    entry = json.loads((run.parent / "result.json").read_text())["models"]["run"]
    assert set(entry["tasks"]["unary"]) == {"train", "test"} and entry["steps"] == 6
    assert "bits_per_byte" not in entry  # no text was trained on


def test_a_run_is_resumed_at_the_next_batch(run, tmp_path):
    train_in(tmp_path, *FEW[:3], "3", *FEW[4:], "--out", "run")
    train_in(tmp_path, "--resume", "--steps", "6", "--out", "run")
    one, other = load_state(run), load_state(tmp_path / "run")
    assert one["step"] == other["step"] == 6 and one["batches"] == other["batches"]
