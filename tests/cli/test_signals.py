"""Runs that a signal stops, and the one command line that starts a run and resumes it."""

import argparse
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from helpers import TINY, train_in

from minislm.checkpoint import load_state
from minislm.cli.run_settings import lock_run, new_run, newest_run, resumed
from minislm.runtime.errors import UserError
from minislm.training import Trainer

FLAGS = [*TINY, "--stories", "40", "--samples", "0", "--tasks", "copy", "--evals", "2",
         "--steps", "12"]  # fmt: skip
SAME = [*FLAGS, "--resume", "--out", "run"]  # one command line for every start
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)


def assert_same(one: Path, other: Path) -> None:
    """The same weights, to train on and to use."""
    states = [load_state(Path(run))["model"] for run in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    files = [(Path(run) / "model.safetensors").read_bytes() for run in (one, other)]
    assert files[0] == files[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train_in(folder, *FLAGS, "--out", "whole")
    return folder / "whole"


def send(monkeypatch, step: int, *numbers: int) -> None:
    """Send signals to this process in a step."""
    real = Trainer._step

    def with_signals(self, batches):
        real(self, batches)
        if self.progress.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "_step", with_signals)


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [HANGUP], [signal.SIGINT],
                                     [signal.SIGTERM, signal.SIGTERM, HANGUP]])  # fmt: skip
def test_a_signal_saves_and_the_same_command_resumes(run_script, whole, numbers):
    for step in (2, 7):  # before and after the first evaluation
        with pytest.MonkeyPatch.context() as patch:
            send(patch, step, *numbers)
            done = run_script("train.py", *SAME)
        assert done.code == 128 + numbers[-1], done.err
        assert f"stopped at step {step}; resume with" in done.err
    done = run_script("train.py", *SAME, "--json", "result.json")
    assert done.code == 0, done.err
    assert_same("run", whole)
    assert json.loads(Path("result.json").read_text())["models"]["run"]["steps"] == 12
    assert run_script("train.py", *SAME).code == 0  # after its end it only reports
    assert_same("run", whole)


def test_a_second_ctrl_c_ends_at_once_and_another_process_stops_too(run_script, monkeypatch):
    send(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    done = run_script("train.py", *SAME)
    assert done.code == 130 and "stopped at step" not in done.err
    assert not Path("run/train_state.pt").exists()
    monkeypatch.undo()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert handlers == [signal.default_int_handler, signal.SIG_DFL]


def test_a_signal_while_processes_agree_is_not_lost(run_script, monkeypatch):
    real = Trainer._synchronize

    def with_signal(self, seconds):
        all_reduce = self.group.all_reduce

        def interrupted(values):
            found = all_reduce(values)
            if self.progress.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

        monkeypatch.setattr(self.group, "all_reduce", interrupted)
        real(self, seconds)
        monkeypatch.setattr(self.group, "all_reduce", all_reduce)

    monkeypatch.setattr(Trainer, "_synchronize", with_signal)
    done = run_script("train.py", *SAME)
    assert done.code == 143 and "stopped at step 4" in done.err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
def test_a_signal_that_is_ignored_stays_ignored(run_script, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    send(monkeypatch, 3, signal.SIGHUP)
    try:
        assert run_script("train.py", *SAME).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


class Killed(BaseException):
    """The end of a process, at a place of the test's choice."""


def kill(monkeypatch, module: str) -> None:
    def end(*_, **__):
        raise Killed

    monkeypatch.setattr(module, end)


@pytest.mark.parametrize(
    "where", ["cli.train.prepare_data", "cli.train._log_introduction", "checkpoint.save_state",
              "checkpoint.write_metrics", "cli.train._report"]
)  # fmt: skip
@pytest.mark.parametrize("repeated", [True, False], ids=["same flags", "--resume alone"])
def test_a_killed_run_is_resumed(run_script, monkeypatch, whole, where, repeated):
    """A run that is killed while it prepares its text, before and in its first evaluation, and
    after the last. Its settings are in its folder from the beginning."""
    with monkeypatch.context() as patch:
        kill(patch, f"minislm.{where}")
        with pytest.raises(Killed):
            run_script("train.py", *FLAGS, "--out", "runs/run")
    done = run_script("train.py", *(FLAGS if repeated else []), "--resume")
    assert done.code == 0 and "runs/run" in done.err, done.err
    assert_same("runs/run", whole)


def test_a_run_that_is_refused_leaves_no_folder_unless_it_was_there(run_script, tmp_path):
    text = tmp_path / "text.txt"
    flags = [*TINY, "--steps", 2, "--data", text, "--resume", "--out", "run"]
    done = run_script("train.py", *flags)
    assert done.code == 2 and "text.txt" in done.err and not Path("run").exists()
    text.write_text("Once upon a time there was a little dog who liked to run a lot.\n" * 9)
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, "minislm.cli.train.prepare_data")
        with pytest.raises(Killed):
            run_script("train.py", *flags)
    moved = text.rename(tmp_path / "moved.txt")
    assert run_script("train.py", "--resume", "--out", "run").code == 2
    assert Path("run/run.json").exists()
    moved.rename(text)


def test_what_cannot_be_resumed_is_refused_and_stays(run_script, whole, tmp_path):
    done = run_script("train.py", *FLAGS, "--resume", "--out", whole, "--width", "64")
    assert done.code == 2 and "--width 64 differs from 32" in done.err
    flags = argparse.Namespace(resume=True, out="run", width=64)
    with pytest.raises(UserError, match="--width 64 differs"):
        resumed(flags, whole)
    for names, words in ((["config.json"], "holds a run already, or a model"),
                         (["run.json", "metrics.jsonl"], "train_state.pt is missing")):  # fmt: skip
        folder = tmp_path / words[:5]
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((whole / name).read_bytes())
        done = run_script("train.py", "--resume", "--out", folder)
        assert done.code == 2 and words in done.err
        assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_runs_that_start_together_have_different_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    starts = [threading.Thread(target=lambda: found.append(new_run("a", None))) for _ in range(8)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    assert sorted(map(str, found)) == sorted(["runs/a", *(f"runs/a-{n}" for n in range(2, 9))])
    with lock_run(Path("runs/a")):  # a run without weights so far
        assert new_run("a", None) == Path("runs/a-9")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    Path("runs").symlink_to("nowhere")
    with pytest.raises(UserError, match="cannot write to runs/a"), lock_run(new_run("a", None)):
        pass


def test_resume_takes_the_newest_run_with_or_without_a_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seconds, file in enumerate(("a/run.json", "a/train_state.pt", "b/run.json")):
        path = Path("runs", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (seconds, seconds))
    assert newest_run("train_state.pt", "run.json") == Path("runs/b")
    os.utime("runs/a/train_state.pt", (5, 5))
    assert newest_run("train_state.pt", "run.json") == Path("runs/a")


def test_seeds_of_any_size_are_taken(run_script):
    flags = [*TINY, "--stories", 20, "--samples", 0, "--tasks", "none", "--steps", 1]
    for seed in (2**64, 99999999999999999999, 10**40):
        done = run_script("train.py", *flags, "--seed", seed, "--out", str(seed))
        assert done.code == 0, done.err
        assert run_script("train.py", "--resume", "--out", str(seed), "--steps", 2).code == 0
        done = run_script("sample.py", "--model", str(seed), "--seed", seed, "--max-new-tokens", 2)
        assert done.code == 0, done.err


@pytest.mark.parametrize("script", ["train.py", "sample.py", "eval.py"])
@pytest.mark.parametrize("threads", [100_000, 5_000, 10**20])
def test_too_many_threads_are_refused(run_script, script, threads):
    done = run_script(script, "--threads", threads)
    assert done.code == 2 and "--threads must be" in done.err and "1025" in done.err
    assert torch.get_num_threads() < 1025


@pytest.mark.parametrize("variables", [dict(RANK="3"), dict(RANK=""), dict(WORLD_SIZE="2")])
def test_processes_without_torchrun_are_reported(run_script, monkeypatch, variables):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run_script("train.py", *FLAGS, "--out", "run")
    assert done.code == 2 and "error: " in done.err and "torchrun" in done.err
    assert not Path("run").exists()
