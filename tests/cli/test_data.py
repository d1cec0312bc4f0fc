"""The texts of a run: the part held out, and what eval.py reports of a text."""

import json
from pathlib import Path

import pytest
from helpers import TINY

from minislm import load
from minislm.cli.config import DataConfig, EvalConfig, RunConfig
from minislm.cli.data import measured_text, prepare_data
from minislm.cli.run_settings import Settings
from minislm.config import ModelConfig, TrainConfig
from minislm.evaluation import text_loss
from minislm.runtime.errors import UserError

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
