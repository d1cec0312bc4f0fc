"""The three scripts as a user types them: results, and one clear line for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY
from safetensors.torch import load_file

from minislm.cli import open_model
from minislm.cli.config import MachineConfig
from minislm.cli.open_model import open_sampler
from minislm.runtime.errors import UserError


def assert_refused(outcome, *words):
    """One line on stderr that names what is wrong, exit code 2, nothing printed as a result."""
    assert outcome.code == 2, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def text(tmp_path):
    def write(content, name="text.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content, word",
    [
        (None, "no file or folder"),
        ("", "empty"),
        (b"\x7fELF\0\0\1\2" * 100, "not text"),
        (b"caf\xe9 " * 100, "UTF-8"),
        ("<|endoftext|>\n \n<|endoftext|>\n", "no story"),
        ("too short\n<|endoftext|>\nhello\n", "no story is left"),
    ],
    ids=["missing", "empty", "binary", "latin-1", "separators", "too short"],
)
@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_a_text_that_cannot_be_used_is_refused(
    run_script, text, tmp_path, tiny_run, script, content, word
):
    path = text(content) if content is not None else tmp_path / "nothing.txt"
    args = ["--out", "run", *TINY] if script == "train.py" else ["--model", tiny_run]
    assert_refused(run_script(script, "--data", path, *args), word, path.name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "script, args, words",
    [
        ("train.py", ["--steps", "0"], ["--steps"]),
        ("train.py", ["--minutes", "-1"], ["--minutes"]),
        ("train.py", ["--batch-tokens", "0"], ["--batch-tokens"]),
        ("train.py", ["--learning-rate", "nan"], ["--learning-rate"]),
        ("train.py", ["--width", "many"], ["--width"]),
        ("train.py", ["--tasks", "unarry"], ["unarry", "unary"]),
        ("train.py", ["--preset", "gpt5"], ["--preset"]),
        ("train.py", ["--stps", "5"], ["--stps", "--steps"]),
        ("train.py", ["--resume"], ["python train.py"]),
        ("train.py", ["--device", "abacus"], ["abacus"]),
        ("train.py", ["--vocab", "100"], ["--vocab"]),
        ("sample.py", ["--model", "nowhere"], ["nowhere"]),
        ("sample.py", ["--max-new-tokens", "0"], ["--max-new-tokens"]),
        ("sample.py", ["--top-p", "1.5"], ["--top-p"]),
        ("sample.py", ["--samples", "0"], ["--samples"]),
        ("sample.py", ["--min-p", "2"], ["--min-p"]),
        ("sample.py", ["--stop-string", ""], ["stop string"]),
        ("sample.py", ["--peers"], ["--peers", "--benchmark"]),
        ("sample.py", ["--benchmark", "--model", "nowhere"], ["nowhere"]),
        ("sample.py", ["--benchmark", "--modes", "fast"], ["--modes", "greedy"]),
        ("sample.py", ["--prompt-file", "nowhere.txt"], ["nowhere.txt"]),
        ("eval.py", ["--model", "nowhere"], ["nowhere"]),
        ("eval.py", ["--tasks", "copi"], ["copi", "copy"]),
        ("eval.py", ["--batch-size", "0"], ["--batch-size"]),
        ("eval.py", ["--modle", "x"], ["--modle", "--model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_gets_one_line(run_script, tmp_path, script, args, words):
    assert_refused(run_script(script, *args), *words)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_broken_run_folder_is_refused_by_the_file(run_script, tiny_run, tmp_path, name, how):
    run = shutil.copytree(tiny_run, tmp_path / "broken")
    if how == "missing":
        (run / name).unlink()
    else:
        (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])
    word = name if how == "truncated" or name == "config.json" else name.split(".")[0]
    assert_refused(run_script("sample.py", "--model", run), word, "broken")


@pytest.mark.parametrize("name", ["train_state.pt", "run.json"])
def test_a_run_that_cannot_be_resumed_is_refused(run_script, tiny_run, tmp_path, name):
    run = shutil.copytree(tiny_run, tmp_path / "broken")
    (run / name).write_bytes((run / name).read_bytes()[:200])
    assert_refused(run_script("train.py", "--resume", "--out", run), name)
    before = load_file(tiny_run / "model.safetensors")
    after = load_file(run / "model.safetensors")
    assert all(before[tensor].equal(after[tensor]) for tensor in before)


def test_resume_alone_takes_the_newest_state_also_without_weights(run_script, tiny_run, tmp_path):
    """A run that was interrupted before its first evaluation has no weights yet."""
    for name, seconds in (("older", 1), ("newer", 2)):
        run = shutil.copytree(tiny_run, tmp_path / "runs" / name)
        os.utime(run / "train_state.pt", (seconds, seconds))
    (run / "config.json").unlink()
    outcome = run_script("train.py", "--resume", "--steps", 7)
    assert outcome.code == 0 and "run folder: runs/newer" in outcome.out


def test_a_prompt_longer_than_the_context_is_refused(run_script, tiny_run):
    outcome = run_script("sample.py", "--model", tiny_run, "--prompt", "word " * 400)
    assert_refused(outcome, "context is 320")


def test_an_existing_run_is_not_overwritten(run_script, tiny_run):
    before = (tiny_run / "model.safetensors").read_bytes()
    assert_refused(run_script("train.py", "--out", tiny_run), "holds a run", "--resume")
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_the_same_seed_gives_the_same_story(run_script, tiny_run):
    args = ["--model", tiny_run, "--prompt", "Once", "--max-new-tokens", "20", "--seed"]
    first, again, other = (
        run_script("sample.py", *args, seed, "--json", f"{seed}.json").out for seed in (1, 1, 2)
    )
    assert first.startswith("Once") and first == again != other
    several = run_script(
        "sample.py", *args, 1, "--prompt", "Two", "--samples", 2, "--json", "texts.json"
    ).out
    assert first.strip() in several and other.strip() in several
    samples, one, two = (
        json.loads(Path(name).read_text())["samples"] for name in ("texts.json", "1.json", "2.json")
    )
    assert [each["prompt"] for each in samples] == ["Once", "Once", "Two", "Two"]
    assert samples[:2] == one + two and one[0]["text"] == first[len("Once") : -1]


def test_prompts_come_from_a_file_or_from_the_terminal(run_script, tiny_run, text, monkeypatch):
    path = text("One day\n\nOnce\n", "prompts.txt")
    args = ["--model", tiny_run, "--max-new-tokens", "5"]
    out = run_script("sample.py", *args, "--prompt-file", path).out
    assert "--- 1 ---\nOne day" in out and "--- 2 ---\nOnce" in out
    lines = iter(["A cat", "word " * 400, "A dog"])

    def answer(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    outcome = run_script("sample.py", *args, "--interactive")
    assert outcome.code == 0 and "A cat" in outcome.out and "A dog" in outcome.out
    assert outcome.err.count("error: ") == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # as torchrun sets it
    assert_refused(run_script("sample.py", *args, "--interactive"), "--interactive", "torchrun")


def test_eval_prints_and_writes_what_it_measured(run_script, tiny_run, text, stories):
    short = "Tom had a red ball. He ran to his mom with it. She was glad."
    path = text("\n<|endoftext|>\n".join([*stories[:20], short]))
    copy = shutil.copytree(tiny_run, "copy")
    outcome = run_script(
        "eval.py", "--model", tiny_run, copy, "--data", path, "--tasks", "copy,unary",
        "--prompt", "Once", "--json", "result.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "bits/byte" in outcome.out and "D_test" in outcome.out and '"Once"' in outcome.out
    assert "stories exceed its 320 tokens and were read in windows" in outcome.err
    assert "too long" in outcome.out  # most unary pairs exceed this small context
    models = json.load(open("result.json"))["models"]
    assert list(models) == [str(tiny_run), "copy"]
    one, other = models.values()
    assert one["bits_per_byte"] == other["bits_per_byte"] > 0
    assert set(one["tasks"]) == {"copy", "unary"}
    assert set(one["tasks"]["copy"]) == {"train", "test"}
    assert {"parameters", "nats_per_token", "perplexity"} <= set(one)


def test_eval_takes_the_newest_run_its_text_and_its_tasks(run_script, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.parent.parent)
    outcome = run_script("eval.py")
    assert outcome.code == 0, outcome.err
    assert "runs/tiny" in outcome.out and "copy" in outcome.out and "parity" in outcome.out


def test_an_ablation_is_compared_with_the_whole_model(run_script, tiny_run):
    flags = ["--model", tiny_run, "--off", "head:0.0,head:0.1", "--prompt", "Once"]
    done = run_script("eval.py", *flags)
    assert done.code == 0, done.err
    first, second, _, prompt, text, ablated = done.out.splitlines()[:6]
    loss = float(first.split(": ")[1].split()[0])
    ablated_loss, change = second.removeprefix("ablated head:0.0,head:0.1: ").split(" (")
    assert float(change[:-1]) == pytest.approx(float(ablated_loss) - loss, abs=2e-4) != 0
    assert prompt == "Once" and text.split()[0] == "model:" and ablated.split()[0] == "ablated:"
    assert_refused(run_script("eval.py", *flags, "--dtype", "int8"), "--dtype int8")


def test_every_way_to_sample_has_its_flag(run_script, tiny_run):
    args = ["--model", tiny_run, "--prompt", "Once", "--max-new-tokens", 12]
    plain = run_script("sample.py", *args).out
    stop = plain.removeprefix("Once")[4:6]
    assert run_script("sample.py", *args, "--stop-string", stop).out.strip() == (
        plain[: plain.index(stop, 4)].strip()
    )
    scored = run_script("sample.py", *args, "--logprobs", "--json", "scored.json")
    assert "log-probability -" in scored.out
    found = json.loads(Path("scored.json").read_text())["samples"][0]
    assert max(found["logprobs"]) <= 0 and found["text"] in plain
    for extra in (["--min-p", 0.1], ["--repetition-penalty", 1.3], ["--dtype", "int8"],
                  ["--dtype", "bfloat16"]):  # fmt: skip
        assert run_script("sample.py", *args, *extra).out.startswith("Once")


def test_int8_weights_are_prepacked_by_the_sampler(tiny_run, monkeypatch):
    sampler = open_sampler(str(tiny_run), MachineConfig(dtype="int8"))[1]
    assert type(sampler.model.head) is torch.nn.Linear and sampler.precision == "int8"
    monkeypatch.setattr(open_model, "select_device", torch.device)
    with pytest.raises(UserError, match="--dtype int8 is for the CPU"):
        open_sampler(str(tiny_run), MachineConfig(dtype="int8", device="cuda"))


def test_int8_is_measured_like_any_other_precision(run_script, tiny_run):
    figures = {}
    for dtype in ("float32", "int8"):
        args = ["--model", tiny_run, "--tasks", "none", "--dtype", dtype, "--json", "e.json"]
        assert run_script("eval.py", *args).code == 0
        figures[dtype] = json.loads(Path("e.json").read_text())["models"][str(tiny_run)]
    one, other = figures.values()
    assert one["parameters"] == other["parameters"]
    assert one["bits_per_byte"] != other["bits_per_byte"]
    assert abs(one["bits_per_byte"] / other["bits_per_byte"] - 1) < 0.01


def test_sampling_a_text_does_not_load_torchs_compiler(tiny_run):
    """It would be a third of the time to the first word."""
    work = f"""
import runpy, sys
sys.argv = ["sample.py", "--model", {str(tiny_run)!r}, "--prompt", "Once", "--max-new-tokens", "9"]
try:
    runpy.run_path({str(ROOT / "sample.py")!r}, run_name="__main__")
finally:
    print([name for name in ("torch._dynamo", "sympy") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("Once"), done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
