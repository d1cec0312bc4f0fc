"""The texts of a run: the part held out, what eval.py reports of a text, and texts that move."""

import argparse
import json
from pathlib import Path

import pytest
from helpers import TINY

from minislm import checkpoint, load
from minislm.cli.config import DataConfig, EvalConfig, RunConfig
from minislm.cli.data import measured_text, prepare_data, with_content
from minislm.cli.run_settings import Settings, resumed
from minislm.config import ModelConfig, TrainConfig
from minislm.evaluation import text_loss
from minislm.runtime.errors import UserError
from minislm.runtime.files import write_json

RUN = [*TINY, "--samples", 0, "--tasks", "none", "--evals", 1]


@pytest.fixture
def write(tmp_path, monkeypatch, stories):
    """Write stories, or another content, to a file in an empty folder, the current one."""
    monkeypatch.chdir(tmp_path)

    def write(name, content=None):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        content = stories[:40] if content is None else content
        Path(name).write_text(
            content if isinstance(content, str) else "\n<|endoftext|>\n".join(content)
        )
        return name

    return write


def settings(data, **options) -> Settings:
    return Settings(
        ModelConfig(), DataConfig(data=data, vocab=300, digits="single", tasks="none", **options),
        TrainConfig(steps=1), RunConfig(),
    )  # fmt: skip


def models(file) -> dict:
    return next(iter(json.loads(Path(file).read_text())["models"].values()))


def texts_of(dataset, tokenizer) -> list[str]:
    return [tokenizer.decode(dataset.document(i)[:-1].tolist()) for i in range(len(dataset))]


# --- The part held out ----------------------------------------------------------------------------


def test_figures_of_a_held_out_part_are_those_of_its_own_tokens(run_script, write, stories):
    write("all.txt", stories[:60])
    done = run_script("train.py", "--data", "all.txt", *RUN, "--steps", 3, "--out", "a",
                      "--json", "a.json")  # fmt: skip
    assert done.code == 0, done.err
    (record,) = map(json.loads, Path("a/metrics.jsonl").read_text().splitlines())
    write("end.txt", stories[57:60])
    model, tokenizer = load("a")
    held_out = measured_text(None, tokenizer, EvalConfig(data="end.txt"))
    loss = text_loss(model, held_out, tokenizer.eot_id)
    trained = models("a.json")
    assert trained["bits_per_byte"] == pytest.approx(loss.bits_per_byte, rel=1e-5)
    assert record["bits_per_byte"] == pytest.approx(loss.bits_per_byte, rel=0.02)  # bfloat16
    assert record["valid_loss"] == pytest.approx(loss.nats_per_token, rel=0.02)
    done = run_script("eval.py", "--model", "a", "--json", "e.json")
    assert f"evaluating a: 3 stories, {held_out.n_tokens:,} tokens" in done.err
    assert models("e.json")["nats_per_token"] == pytest.approx(loss.nats_per_token, rel=1e-5)


@pytest.mark.parametrize("gap", ["\n\n", "\n", " ", ""])
def test_the_end_of_a_single_document_is_held_out(write, gap):
    blocks = ["abcdefghij" * 4 + str(n) + "." for n in range(10, 99)]
    write("small.txt", gap.join(blocks))
    data = prepare_data(settings("small.txt"))
    (first,), (last,) = (texts_of(part, data.tokenizer) for part in (data.train, data.valid))
    assert first + last == gap.join(blocks) and last.startswith(gap)
    assert 0.04 < len(last) / len(first) < 0.07
    assert not gap or (first.split(gap) + last.removeprefix(gap).split(gap)) == blocks
    assert data.valid.bytes == len(last) and data.train.bytes == len(first)
    again = measured_text(settings("small.txt"), data.tokenizer, EvalConfig())
    assert texts_of(again, data.tokenizer) == [last]
    whole = measured_text(None, data.tokenizer, EvalConfig(data="small.txt"))
    assert texts_of(whole, data.tokenizer) == [gap.join(blocks)]


def test_a_folder_has_its_own_validation_text(write, stories, capsys):
    write("texts/train.txt", stories[:30])
    write("texts/valid.txt", stories[30:40])
    write("texts/.valid.txt.swp", "left by an editor")
    data = prepare_data(settings("texts"))
    assert texts_of(data.train, data.tokenizer) == stories[:30]
    assert texts_of(data.valid, data.tokenizer) == stories[30:40]
    assert "validation text: texts/*valid*" in capsys.readouterr().err
    for run, config in ((settings("texts"), EvalConfig()), (None, EvalConfig(data="texts"))):
        measured = measured_text(run, data.tokenizer, config)
        assert texts_of(measured, data.tokenizer) == stories[30:40]
    own = prepare_data(settings("texts", valid=write("own.txt", stories[40:45])))
    assert texts_of(own.train, own.tokenizer) == stories[:30] and len(own.valid) == 5


# --- What eval.py measures ------------------------------------------------------------------------


def test_what_was_changed_in_a_measured_text_is_one_line(write, stories, tokenizer, capsys):
    curly = stories[1].replace(".", "\u2026", 1)
    write("text.txt", [stories[0], curly, stories[0], "Short."])
    assert len(measured_text(None, tokenizer, EvalConfig(data="text.txt"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("text.txt: stories read 4 ") and "stories kept 2" in line
    assert "dropped: too short 1" in line and "quotes and dashes to ASCII 1" in line
    write("text.txt", stories[:3])
    assert len(measured_text(None, tokenizer, EvalConfig(data="text.txt"))) == 3
    assert not capsys.readouterr().err
    mixed = [*stories[:9], "小猫在花园里找到了一只红色的球，它很高兴地跑回家。"]
    write("mixed.txt", mixed)
    measured = measured_text(None, tokenizer, EvalConfig(data="mixed.txt"))
    assert texts_of(measured, tokenizer) == mixed


def test_a_text_is_measured_where_no_cache_can_be_written(write, stories, tokenizer, capsys):
    write("text.txt", [*stories[:5], "Short."])
    write("runs", "a file, not a folder")
    found = measured_text(None, tokenizer, EvalConfig(data="text.txt"))
    assert texts_of(found, tokenizer) == stories[:5] and found.tokens.filename is None  # in memory
    err = capsys.readouterr().err
    assert "cannot write runs/cache" in err and "without a cache" in err and "too short 1" in err
    held_out = measured_text(settings("text.txt"), tokenizer, EvalConfig())
    assert texts_of(held_out, tokenizer) == stories[4:5]
    with pytest.raises(UserError, match="no file or folder nothing.txt"):
        measured_text(None, tokenizer, EvalConfig(data="nothing.txt"))
    with pytest.raises(UserError, match="cannot write runs/cache"):
        prepare_data(settings("text.txt"))


# --- Texts that move or change --------------------------------------------------------------------


def test_a_run_finds_its_texts_from_every_folder(run_script, write, stories, monkeypatch):
    for folder, at in (("a", 0), ("b", 50)):
        write(f"{folder}/mine.txt", stories[at : at + 40])
        write(f"{folder}/valid.txt", stories[at + 40 : at + 50])
    monkeypatch.chdir("a")
    flags = ["--data", "mine.txt", "--valid", "valid.txt", *RUN, "--out", "run"]
    assert run_script("train.py", *flags, "--steps", 2, "--json", "t.json").code == 0
    assert Settings.read("run").data.valid == str(Path("valid.txt").absolute())
    monkeypatch.chdir("../b")
    done = run_script("eval.py", "--model", "../a/run", "--json", "e.json")
    figures = [models(file)["bits_per_byte"] for file in ("e.json", "../a/t.json")]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5) and "changed" not in done.err
    done = run_script("train.py", "--resume", "--out", "../a/run", "--steps", 3)
    assert done.code == 0, done.err
    monkeypatch.chdir("../a")
    assert run_script("train.py", "--resume", *flags, "--steps", 4).code == 0
    (step, *_), before = checkpoint.load_state(Path("run")).values(), Path("run/train_state.pt")
    state = before.read_bytes()
    for more in (["--data", "../b/mine.txt"], ["--valid", "../b/valid.txt"]):
        done = run_script("train.py", "--resume", "--out", "run", *more)
        assert done.code == 2 and "not the text of this run" in done.err
    assert step == 4 and before.read_bytes() == state


def test_a_text_may_move_and_a_changed_one_is_noticed(run_script, write, stories):
    def resume(*flags):
        return run_script("train.py", "--resume", "--out", "run", *flags)

    write("mine.txt")
    flags = ["--data", "mine.txt", *RUN, "--steps", 2, "--out", "run"]
    assert run_script("train.py", *flags).code == 0
    Path("mine.txt").rename("moved.txt")
    done = resume("--steps", 3)
    assert done.code == 2 and "no file or folder" in done.err and "mine.txt" in done.err
    write("mine.txt", stories[:39])
    assert resume().code == 2
    done = run_script("eval.py", "--model", "run")
    assert done.code == 0 and "mine.txt has changed since the run began" in done.err
    done = resume("--data", "moved.txt", "--steps", 3)
    assert done.code == 0, done.err
    assert Settings.read("run").data.data == str(Path("moved.txt").absolute())
    assert resume("--steps", 4).code == 0
    done = run_script("eval.py", "--model", "run")
    assert done.code == 0 and "changed" not in done.err


def test_texts_of_the_hub_keep_their_name_and_old_runs_their_path(write, stories, monkeypatch):
    write("valid.txt", stories[40:50])
    found = {"owner/name": (write("all.txt"), "valid.txt")}
    find = "minislm.cli.data.find_text"
    monkeypatch.setattr(find, lambda source: found.get(source, (source, None)))
    kept = with_content(settings("owner/name")).data
    assert (kept.data, kept.valid, len(kept.content)) == ("owner/name", None, 2)
    path = str(Path("all.txt").absolute())
    assert with_content(settings("all.txt", valid="valid.txt")).data.content == kept.content
    write_json("run/run.json", settings("all.txt").as_dict() | {"tasks": []})  # without content
    with pytest.raises(UserError, match="--data other.txt differs from all.txt"):
        resumed(argparse.Namespace(resume=True, data="other.txt"), Path("run"))
    old = with_content(resumed(argparse.Namespace(resume=True), Path("run")))
    assert old.data.data == path and len(old.data.content) == 1
    assert with_content(settings(None)).data == settings(None).data
