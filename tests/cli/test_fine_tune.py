"""Runs that start from existing weights, and the pairs of a file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import TINY, random_model, read_metrics
from pretrained.llama2c_files import write_llama2c

from minislm.checkpoint import load_state
from minislm.cli.fine_tune import read_pairs, start_model
from minislm.cli.run_settings import Settings
from minislm.evaluation import score
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError
from minislm.runtime.files import write_json
from minislm.sampler import Sampler
from minislm.studies.baselines import DummyModel
from minislm.tasks import number_words, pairs
from minislm.training import Trainer

SHORT = ["--steps", 12, "--evals", 3, "--samples", 0, "--threads", 1, "--batch-tokens", 512,
         "--stories", 20, "--tasks", "none", "--dtype", "float32"]  # fmt: skip


def logbook(numbers) -> str:
    """Documents that no story generator writes."""
    lines = (
        f"The keeper of lighthouse {number_words(n)} wrote in the book: wind from the north, and "
        f"{number_words(n + 7)} boats came home before dark. Nobody was missing. The lamp burned."
        for n in numbers
    )
    return "\n<|endoftext|>\n".join(lines)


@pytest.fixture
def mine(tmp_path) -> list[str]:
    """A training and a validation text, as flags."""
    for name, numbers in (("mine.txt", range(40)), ("valid.txt", range(50, 60))):
        (tmp_path / name).write_text(logbook(numbers))
    return ["--data", str(tmp_path / "mine.txt"), "--valid", str(tmp_path / "valid.txt")]


def write_pairs(path, count: int = 30) -> Path:
    lines = (
        json.dumps({"prompt": f"The colour of {number_words(i)}:", "completion": f" {colour}"})
        for i, colour in zip(range(count), ["red", "blue", "green"] * count)
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def weights(run) -> dict[str, torch.Tensor]:
    return load_state(Path(run))["model"]


def assert_same(one, other) -> None:
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def bits_per_byte(run_script, model, *flags) -> float:
    done = run_script("eval.py", "--model", model, "--tasks", "none", *flags, "--json", "e.json")
    assert done.code == 0, done.err
    (entry,) = json.loads(Path("e.json").read_text())["models"].values()
    return entry["bits_per_byte"]


def test_a_run_continues_with_the_shape_and_the_tokenizer_of_a_model(run_script, tiny_run, mine):
    before = bits_per_byte(run_script, tiny_run, "--data", mine[-1])
    old_before = bits_per_byte(run_script, tiny_run)
    done = run_script("train.py", "--init-from", tiny_run, *mine, *SHORT, "--json", "r.json")
    assert done.code == 0, done.err
    run = Path("runs/fine-tuned")
    settings, source = (Settings.read(each) for each in (run, tiny_run))
    assert settings.run.init_from == str(tiny_run) and settings.data.data == mine[1]
    assert (settings.model.width, settings.model.context) == (32, 320)
    assert settings.train.learning_rate < source.train.learning_rate
    assert settings.train.matrix_rate < source.train.matrix_rate
    assert (run / "tokenizer.json").read_bytes() == (tiny_run / "tokenizer.json").read_bytes()

    (entry,) = json.loads(Path("r.json").read_text())["models"].values()
    start = read_metrics(run)[0]
    assert start["step"] == 0 and "train_loss" not in start
    losses = entry["before_and_after"]
    old_after = bits_per_byte(run_script, run, "--data", old_text(tiny_run))
    assert losses["new text"] == pytest.approx([before, entry["bits_per_byte"]], abs=1e-5)
    assert losses["old text"] == pytest.approx([old_before, old_after], abs=1e-5)
    assert start["bits_per_byte"] == losses["new text"][0] > losses["new text"][1]
    for name, (first, last) in losses.items():
        assert f"{name}: {first:.3f} bits per byte before, {last:.3f} after" in done.out


def test_the_weights_kept_are_never_worse_than_those_of_the_start(run_script, tiny_run, mine):
    rates = ["--learning-rate", 2, "--matrix-rate", 2, "--out", "run"]
    done = run_script("train.py", "--init-from", tiny_run, *mine, *SHORT, *rates)
    assert done.code == 0, done.err
    kept, before = (load(each)[0].state_dict() for each in ("run", tiny_run))
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert any(not torch.equal(weights("run")[name], before[name]) for name in before)


def old_text(run: Path) -> str:
    """A file with the validation text of a run on generated stories."""
    from minislm.cli import data

    settings = Settings.read(run)
    texts = data.generated(data.HELD_OUT_STORIES, settings.train.seed, settings.data.stories)
    Path("old.txt").write_text("\n<|endoftext|>\n".join(texts))
    return "old.txt"


@pytest.mark.parametrize(
    "trainable, trained, tied",
    [("all", "", True), ("blocks", "blocks.", True), ("last-block", "blocks.1.", False),
     ("head", "head.", False), ("head", "head.", True)],
)  # fmt: skip
def test_weights_that_are_not_trained_stay_bit_equal(
    run_script, tokenizer, tmp_path, trainable, trained, tied
):
    vocabulary = dict(vocab_size=tokenizer.vocab_size, context=320, tied=tied)
    save(tmp_path / "model", random_model(**vocabulary, n_kv_head=4), tokenizer)
    done = run_script("train.py", "--init-from", "model", *SHORT, "--trainable", trainable)
    assert done.code == 0, done.err
    before, after = (load(each)[0].state_dict() for each in ("model", "runs/fine-tuned"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    expected = {name for name in before if name.startswith(trained)}
    if trained == "head." and tied:
        expected.add("embedding.weight")
    assert changed == expected and expected


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--init-from", "{run}", "--width", 64], "--width"),
        (["--init-from", "{run}", "--no-tied"], "--tied"),
        (["--init-from", "{run}", "--vocab", 500], "--vocab"),
        (["--init-from", "{run}", "--preset", "gpt2"], "--preset"),
        (["--init-from", "nowhere"], "nowhere"),
        (["--trainable", "head"], "--trainable goes with --init-from"),
        (["--init-from", "{run}", "--trainable", "tail"], "--trainable"),
        (["--pairs", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(run_script, tiny_run, flags, word):
    done = run_script("train.py", *(str(flag).format(run=tiny_run) for flag in flags))
    assert done.code == 2 and done.err.count("error: ") == 1 and "Traceback" not in done.err
    assert word in done.err
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.safetensors"))


@pytest.mark.parametrize("evals", [1, 4], ids=["before", "after"])
def test_an_interrupted_fine_tuning_resumes_to_the_same_weights(
    run_script, tiny_run, mine, tmp_path, monkeypatch, evals
):
    source = shutil.copytree(tiny_run, "source")
    flags = ["--init-from", "source", *mine, *SHORT, "--evals", evals, "--trainable", "blocks",
             "--pairs", write_pairs(tmp_path / "pairs.jsonl")]  # fmt: skip
    assert run_script("train.py", *flags, "--out", "whole").code == 0
    step = Trainer._step

    def interrupted(self, batches):
        step(self, batches)
        self.stopped = self.progress.step == 7

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        assert run_script("train.py", *flags, "--out", "half").code == 130
    shutil.rmtree(source)  # what a run starts from is in its folder
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = tmp_path / "half"
    done = run_script("train.py", "--resume", "--out", run)
    assert done.code == 0, done.err
    assert_same(run, tmp_path / "whole")
    assert "new text: " in done.out and "exact match" in done.out
    assert read_metrics(run)[0] == read_metrics(tmp_path / "whole")[0]


def test_a_text_of_the_model_that_is_gone_is_not_measured(run_script, tiny_run, mine):
    source = Path(shutil.copytree(tiny_run, "source"))
    contents = json.loads((source / "run.json").read_text())
    contents["data"]["data"] = "gone.txt"
    write_json(source / "run.json", contents)
    done = run_script("train.py", "--init-from", "source", *mine, *SHORT)
    assert done.code == 0, done.err
    assert "the loss on the text of" in done.err and "gone.txt" in done.err
    assert "new text: " in done.out and "old text" not in done.out


def test_the_end_that_is_trained_ends_a_text_beside_those_of_the_model(tokenizer, tmp_path):
    save(tmp_path, random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 7})
    assert load(tmp_path)[1].end_ids == {7}
    assert start_model(tmp_path, "cpu", "all")[1].end_ids == {7, tokenizer.eot_id}


def test_a_model_of_llama2c_is_fine_tuned_and_resumed(run_script, tmp_path, mine):
    write_llama2c(tmp_path)  # its end of text is not ours, and its head is not tied
    flags = ["--init-from", "v0.bin", *mine, *SHORT, "--out", "run"]
    assert run_script("train.py", *flags).code == 0
    done = run_script("train.py", "--resume", "--out", "run", "--steps", 14)
    assert done.code == 0 and load_state(Path("run"))["step"] == 14, done.err
    assert "new text" in done.out and "old text" not in done.out
    assert load("run")[1].eot_id == load("v0.bin")[1].eot_id


def test_a_model_of_transformers_is_fine_tuned(run_script, tokenizer, mine, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=128, window_size=16,
    )  # fmt: skip
    transformers.GPTNeoForCausalLM(config).save_pretrained("neo")
    tokenizer.save("neo")
    done = run_script("train.py", "--init-from", "neo", *mine, *SHORT, "--json", "r.json")
    assert done.code == 0, done.err
    (entry,) = json.loads(Path("r.json").read_text())["models"].values()
    before, after = entry["before_and_after"]["new text"]
    assert after < before
    tuned = transformers.AutoModelForCausalLM.from_pretrained("runs/fine-tuned")
    assert tuned.config.model_type == "gpt_neo" and tuned.config.vocab_size == config.vocab_size


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_of_a_file_are_learned_and_scored_on_both_parts(run_script, tmp_path, tiny_run):
    path = write_pairs(tmp_path / "pairs.jsonl", 12)
    flags = ["--pairs", path, *SHORT, "--stories", 0, "--steps", 120, "--batch-tokens", 256]
    rates = ["--matrix-rate", 0.03, "--learning-rate", 0.02]
    for start in (["--init-from", tiny_run], TINY[:8]):
        done = run_script("train.py", *flags, *rates, *start, "--json", "r.json")
        assert done.code == 0, done.err
        assert f"11 pairs of {path}" in done.err
        (row,) = (line for line in done.out.splitlines() if line.startswith("pairs "))
        assert row.split()[1:4] == ["100%", "of", "11"] and row.endswith("% of 1")
        (entry,) = json.loads(Path("r.json").read_text())["models"].values()
        assert entry["tasks"]["pairs"]["train"] == 1.0


def test_changed_pairs_are_noticed(run_script, tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl")
    flags = [*TINY, *SHORT, "--pairs", path, "--out", "run", "--resume"]
    assert run_script("train.py", *flags).code == 0
    assert run_script("train.py", *flags, "--steps", 14).code == 0
    write_pairs(path, 31)
    done = run_script("train.py", *flags, "--steps", 16)
    assert done.code == 2 and "is not the text of this run" in done.err


def test_pairs_and_tasks_are_trained_together(run_script, tmp_path, tiny_run):
    path = write_pairs(tmp_path / "pairs.jsonl")
    done = run_script("train.py", *TINY, *SHORT, "--tasks", "copy,parity", "--pairs", path)
    assert done.code == 0, done.err
    rows = [line.split()[0] for line in done.out.splitlines() if "% of " in line]
    assert rows == ["copy", "parity", "pairs", "all"]
    assert "167 pairs of copy, parity, " in done.err
    assert Settings.tasks("runs/one-block") == ["copy", "parity"]


def test_pairs_are_numbered_by_line_and_a_prompt_is_on_one_side(tmp_path):
    path = tmp_path / "pairs.jsonl"
    first = '{"prompt": "a\u2028b", "completion": "", "source": 1}'
    more = [json.dumps({"prompt": f"p{n // 2}", "completion": str(n)}) for n in range(60)]
    lines = [first, "", *more]
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\n\n").encode())
    train, held_out = read_pairs(str(path))
    assert sorted(pair.i for pair in train + held_out) == [1, *range(3, 63)]
    (one,) = (pair for pair in train + held_out if pair.i == 1)
    assert (one.prompt, one.answer) == ("a\u2028b", "")
    prompts = [{pair.prompt for pair in split} for split in (train, held_out)]
    assert len(prompts[1]) == 3 and not prompts[0] & prompts[1]
    assert (train, held_out) == read_pairs(str(path))
    path.write_text(json.dumps({"prompt": "one", "completion": "pair"}))
    assert [len(split) for split in read_pairs(str(path))] == [1, 0]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '"prompt"', "null", '{"prompt": "a"}', '{"prompt": "a", "completion": null}',
     '{"prompt": 1, "completion": 2}', '{"prompt": ["a"], "completion": ["b"]}',
     '{"prompt": "a", "completion": "\\ud800"}', "[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_no_pair_is_refused_by_its_number(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n\n' + line + "\n")
    with pytest.raises(UserError, match="pairs.jsonl, line 3: "):
        read_pairs(str(path))
    path.write_text("")
    with pytest.raises(UserError, match="pairs.jsonl, line 1: "):
        read_pairs(str(path))


def test_pairs_beyond_the_context_are_left_out_and_named(run_script, tmp_path, tiny_run):
    path = write_pairs(tmp_path / "pairs.jsonl", 9)
    with open(path, "a") as file:
        file.write(json.dumps({"prompt": "long " * 400, "completion": "x"}) + "\n")
        file.write(json.dumps({"prompt": "more " * 400, "completion": "x"}) + "\n")
    done = run_script("train.py", "--init-from", tiny_run, *SHORT, "--pairs", path)
    assert done.code == 0, done.err
    assert "exceed the context of 320 and are left out: i = 1" in done.err
    assert "too long: " in done.out


def test_an_answer_is_compared_with_what_the_tokenizer_makes_of_it(tmp_path):
    """Tokenizers of llama2.c put a space before every text that they encode."""
    write_llama2c(tmp_path)
    tokenizer = load(tmp_path / "v0.bin")[1]
    known = pairs("copy")
    found = score(Sampler(DummyModel(tokenizer, 1.0), tokenizer), known[:20], known[20:30])
    assert (found.train, found.test) == ((20, 20), (10, 10))
    wrong = score(Sampler(DummyModel(tokenizer, 0.0), tokenizer), known[:20], [])
    assert (wrong.train, wrong.test) == ((0, 20), (0, 0))
