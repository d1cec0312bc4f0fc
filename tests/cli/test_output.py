"""Results are written before they are printed, prompts of files, and a terminal's bytes."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TINY

from minislm.cli.config import MachineConfig
from minislm.cli.open_model import open_model

NONE = (BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device"))


class Refusing(io.RawIOBase):
    """A stream that takes some bytes and then refuses all."""

    def __init__(self, error: OSError, takes: int = 0):
        self.error, self.takes, self.number = error, takes, os.open(os.devnull, os.O_WRONLY)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def write(self, data) -> int:
        self.takes -= len(data)
        if self.takes < 0:
            raise self.error
        return len(data)


def refuse(monkeypatch, error, *names, takes=0):
    for name in names:
        stream = io.TextIOWrapper(io.BufferedWriter(Refusing(error, takes)), "utf-8")
        monkeypatch.setattr(sys, name, stream)


@pytest.mark.parametrize("takes", [0, 400])  # bytes
@pytest.mark.parametrize("error", NONE, ids=["reader ended", "full device"])
def test_a_training_is_saved_whoever_reads_its_output(run_script, monkeypatch, error, takes):
    pytest.importorskip("matplotlib")
    refuse(monkeypatch, error, "stdout", "stderr", takes=takes)
    done = run_script("train.py", *TINY, "--stories", 40, "--steps", 6, "--samples", 1, "--tasks",
                      "copy", "--out", "run", "--json", "result.json")  # fmt: skip
    assert done.code == (0 if isinstance(error, BrokenPipeError) else 2)
    assert json.loads(Path("result.json").read_text())["models"]["run"]["steps"] == 6
    assert Path("run/loss.png").exists() and Path("run/model.safetensors").exists()


@pytest.mark.parametrize("takes", [0, 9])  # bytes: an error before and in the text
@pytest.mark.parametrize("more", [[], ["--prompt", "One day"], ["--logprobs"]], ids=str)
def test_texts_are_written_whole_before_they_are_printed(
    run_script, monkeypatch, tiny_run, more, takes
):
    flags = ["--model", tiny_run, "--prompt", "Once", "--max-new-tokens", 20, *more, "--json"]
    assert run_script("sample.py", *flags, "whole.json").code == 0
    for error, code in zip(NONE, (0, 2)):
        with monkeypatch.context() as patch:
            refuse(patch, error, "stdout", takes=takes)
            assert run_script("sample.py", *flags, "other.json").code == code
        assert Path("other.json").read_text() == Path("whole.json").read_text()
        Path("other.json").unlink()


@pytest.mark.parametrize("flags", [["--tasks", "none"], ["--prompt", "Once", "--tasks", "copy"]])
def test_figures_are_written_before_they_are_printed(run_script, monkeypatch, tiny_run, flags):
    with monkeypatch.context() as patch:
        refuse(patch, NONE[0], "stdout")
        done = run_script("eval.py", "--model", tiny_run, *flags, "--json", "result.json")
    assert done.code == 0 and json.loads(Path("result.json").read_text())["models"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_text_beyond_an_encoding_is_shown_with_replacements(
    run_script, monkeypatch, tiny_run, encoding
):
    flags = ["--model", tiny_run, "--prompt", "a 🦊 小", "--max-new-tokens", 4, "--json", "a.json"]
    for more in ([], ["--samples", 2]):
        buffer = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding))
            done = run_script("sample.py", *flags, *more)
            assert done.code == 0 and b"a ? ?" in buffer.getvalue()
        assert json.loads(Path("a.json").read_text())["samples"][0]["prompt"] == "a 🦊 小"


@pytest.mark.parametrize(
    "content, words",
    [
        ("\n\nOnce\n" + "word " * 400 + "\nOne day\n", "line 4 of prompts.txt: "),
        (b"Once\nabc\xff\n", "line 2 of prompts.txt: 'utf-8' codec can't decode byte 0xff"),
        (b"Once\r\n\xed\xa0\x80\r\n", "line 2 of prompts.txt: "),  # half of a surrogate pair
        ("Once".encode("utf-16"), "line 1 of prompts.txt: "),
    ],
    ids=["too long", "latin-1", "surrogate", "utf-16"],
)
def test_a_bad_prompt_is_named_by_its_line(run_script, tiny_run, content, words):
    Path("prompts.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = ["--model", tiny_run, "--max-new-tokens", 4, "--prompt-file", "prompts.txt"]
    done = run_script("sample.py", *flags, "--prompt", "First")
    assert done.code == 2 and words in done.err and done.out == ""
    assert done.err.count("error:") == 1 and "Traceback" not in done.err


@pytest.mark.parametrize("content", ["Once\nOne day\n", "Once\r\nOne day", "Once\rOne day\r"])
def test_a_byte_order_mark_is_no_part_of_a_prompt(run_script, tiny_run, content):
    found = []
    for mark in ("", "\ufeff"):
        Path("prompts.txt").write_bytes((mark + content).encode())
        done = run_script("sample.py", "--model", tiny_run, "--max-new-tokens", 4, "--prompt-file",
                          "prompts.txt", "--json", "a.json")  # fmt: skip
        assert done.code == 0, done.err
        found.append(json.loads(Path("a.json").read_text())["samples"])
    assert [each["prompt"] for each in found[0]] == ["Once", "One day"] and found[0] == found[1]


@pytest.mark.parametrize(
    "prompt, plain",
    [("\u201cHi,\u201d she\u2019s", '"Hi," she\'s'), ("A cafe\u0301 \u2014", "A caf\u00e9 -"),
     ("One\xa0day\u2026", "One day...")],
)  # fmt: skip
def test_a_prompt_of_a_run_is_read_as_its_text_was(tiny_run, tmp_path, prompt, plain):
    model = shutil.copytree(tiny_run, tmp_path / "model")
    (model / "run.json").unlink()  # a model whose text is not known: no character is another
    for source, same in ((tiny_run, True), (model, False)):
        tokenizer = open_model(str(source), MachineConfig())[2]
        assert (tokenizer.prompt_ids(prompt) == tokenizer.prompt_ids(plain)) == same
        assert tokenizer.encode(prompt) != tokenizer.encode(plain)


@pytest.mark.skipif(os.name == "nt", reason="a shell redirects the streams")
@pytest.mark.parametrize(
    "flags, given, code, out, err",
    [
        (["--interactive"], b"\xef\xbb\xbfOnce\nabc\xff\nOne day\n", 0, ["> Once", "> One day"],
         "U+DCFF"),
        (["--prompt-file", "-"], "\ufeffcafé\nOnce\n".encode(), 0, ["café", "Once"], ""),
        (["--prompt-file", "-"], None, 2, [], "error: cannot read prompts from -: "),
        (["--interactive"], None, 0, [], ""),
    ],
    ids=["bad bytes", "stdin", "closed stdin", "closed terminal"],
)  # fmt: skip
def test_standard_input_is_utf8_whatever_the_locale(tiny_run, flags, given, code, out, err):
    shell = 'exec "$0" "$@"' + (" <&-" if given is None else "")
    command = ["bash", "-c", shell, sys.executable, ROOT / "sample.py", "--model", tiny_run,
               "--max-new-tokens", "4", *flags]  # fmt: skip
    done = subprocess.run(command, input=given, capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": "latin-1:strict"})  # fmt: skip
    assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr
    assert all(word.encode("latin-1") in done.stdout for word in out)
    assert err in done.stderr.decode("latin-1")


def test_compiled_steps_need_a_folder(run_script, tiny_run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    flags = ["--model", tiny_run, "--prompt", "Once", "--max-new-tokens", 20, "--compile"]
    for name, value in (("XDG_CACHE_HOME", tmp_path / "file"), ("HOME", tmp_path / "file")):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(name, str(value))
        done = run_script("sample.py", *flags)
        assert done.code == 2 and "--compile cannot store its steps" in done.err
        assert "XDG_CACHE_HOME" in done.err and done.err.count("error:") == 1
