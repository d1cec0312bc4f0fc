"""Exit codes and messages of scripts. (tests/pretrained has messages from damaged files.)"""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

from minislm.runtime.errors import CheckpointError, UserError, log, run_script


def outcome(capsys, error=None):
    """Exit code, stdout and stderr of a script that prints a line, and raises an error."""

    def main():
        print("a line")
        if error is not None:
            raise error

    code = 0
    try:
        run_script(main)
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    "error, code, err",
    [
        (None, 0, ""),
        (UserError("no run; train\n one"), 2, "error: no run; train one\n"),
        (CheckpointError("a.json is damaged"), 2, "error: a.json is damaged\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_outcome_has_its_exit_code_and_one_line(capsys, error, code, err):
    assert outcome(capsys, error) == (code, "a line\n", err)


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(ValueError, match="a bug"):
        outcome(capsys, ValueError("a bug"))


def test_of_several_processes_the_first_one_logs(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        log(f"line of {rank}")
    assert capsys.readouterr().err == "line of 0\n"
    monkeypatch.delenv("WORLD_SIZE")  # a number without others is a mistake, to be reported
    log("line")
    assert capsys.readouterr().err == "line\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes differ there")
@pytest.mark.parametrize("lines", [1, 90_000])  # fewer and more than a buffer holds
def test_a_reader_that_ends_early_is_no_error(lines):
    code = f"""
from minislm.runtime.errors import run_script
run_script(lambda: input() or [print("x") for _ in range({lines})])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait() == 0
