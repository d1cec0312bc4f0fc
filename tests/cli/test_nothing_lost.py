"""A run whose disk fills up, whose memory is short, whose folder is taken, or that is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, train_in

from minislm import checkpoint
from minislm.cli.run_settings import lock_run
from minislm.pretrained.load import load
from minislm.runtime.errors import UserError
from minislm.training import Trainer

RUN = [*TINY, "--stories", 40, "--samples", 0, "--tasks", "copy", "--evals", 6]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train_in(folder, *RUN, "--steps", 12, "--out", "run")
    return folder / "run"


def start(folder: Path, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *flags], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def weights(run):
    return checkpoint.load_state(Path(run))["model"]


def assert_same(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(run_script, monkeypatch, whole, error):
    real, calls = torch.save, []

    def full(value, path, **more):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise error
        return real(value, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        done = run_script("train.py", *RUN, "--steps", 12, "--out", "full")
    assert done.code == 2 and "cannot write" in done.err and "Traceback" not in done.err
    assert checkpoint.load_state(Path("full"))["step"] == 4
    assert not list(Path("full").glob(".*.tmp"))
    assert run_script("train.py", "--resume", "--out", "full").code == 0
    assert_same("full", whole)


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", None])
def test_full_memory_is_one_line_and_the_run_can_be_resumed(run_script, monkeypatch, words):
    step = Trainer._step

    def short(self, batches):
        if self.progress.step == 9:
            raise RuntimeError(words) if words else MemoryError()
        step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", short)
        done = run_script("train.py", *RUN, "--steps", 12, "--out", "short")
    assert done.code == 2 and "memory is full" in done.err and "--batch-tokens" in done.err
    assert run_script("train.py", "--resume", "--out", "short").code == 0


def test_another_error_is_not_taken_for_full_memory(run_script, monkeypatch):
    def broken(self, batches):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_script("train.py", *RUN, "--steps", 2, "--out", "broken")


def test_two_runs_in_one_folder(run_script):
    run_script("train.py", *RUN, "--steps", 3, "--out", "taken")
    with lock_run(Path("taken")):
        done = run_script("train.py", "--resume", "--out", "taken", "--steps", 6)
        assert done.code == 2 and "another process trains in taken" in done.err
    assert run_script("train.py", "--resume", "--out", "taken", "--steps", 6).code == 0


def test_files_left_by_an_interrupted_run_are_removed(tmp_path):
    (tmp_path / ".train_state.pt.123.tmp").write_bytes(b"half")
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / ".step-00000001.pt.123.tmp").write_bytes(b"half")
    with lock_run(tmp_path):
        assert not [path for path in tmp_path.rglob("*.tmp")]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="cannot write to"), lock_run(file / "run"):
        pass


def test_the_last_states_are_kept_and_a_damaged_one_names_the_one_before(run_script, whole):
    run_script("train.py", *RUN, "--steps", 12, "--keep", 3, "--out", "kept")
    names = sorted(path.name for path in Path("kept/states").iterdir())
    assert names == ["step-00000008.pt", "step-00000010.pt", "step-00000012.pt"]
    assert os.path.samefile("kept/states/step-00000012.pt", "kept/train_state.pt")
    damaged = Path("kept/train_state.pt")
    damaged.unlink()  # the other name of the same bytes stays whole
    damaged.write_bytes(b"damaged")
    done = run_script("train.py", "--resume", "--out", "kept")
    assert done.code == 2 and "copy the last file of kept/states over it" in done.err
    damaged.write_bytes(Path("kept/states/step-00000008.pt").read_bytes())
    assert run_script("train.py", "--resume", "--out", "kept").code == 0
    assert_same("kept", whole)


# --- kill, and the same command again -------------------------------------------------------------

STEPS = 40
KILLED = [*map(str, TINY), "--stories", "40", "--samples", "0", "--tasks", "copy", "--evals", "20",
          "--keep", "2", "--seed", "3", "--steps", str(STEPS)]  # fmt: skip


def readable(run: Path) -> int:
    """Every checkpoint of a run that was killed can be read; the step it would resume from."""
    for state in (run / "states").glob("step-*.pt"):
        assert torch.load(state, weights_only=True)["step"] > 0
    if (run / "config.json").exists():
        load(run)
    for line in (run / "metrics.jsonl").read_text().splitlines()[:-1] if (
            run / "metrics.jsonl").exists() else []:  # fmt: skip
        json.loads(line)
    return checkpoint.load_state(run)["step"] if (run / "train_state.pt").exists() else 0


def kill_and_resume(folder: Path, flags: list[str], kills: int, seed: int) -> list[int]:
    """Kill a run `kills` times, each time at a random moment, start it again with the same command,
    and let it end; the steps it was resumed from."""
    rng, run, found = random.Random(seed), folder / "killed", []
    while len(found) < kills:
        begun = (run / "train_state.pt").exists()
        process = start(folder, *flags, "--resume", "--out", str(run))
        if rng.random() < 0.7:  # else perhaps before there is a folder
            while process.poll() is None and not (run / "run.json").exists():
                time.sleep(0.01)
        # Moments are spread over the start of a process and its first seconds of training.
        time.sleep(rng.uniform(0.0, 1.0) if begun else rng.uniform(0.0, 0.6))
        if begun and rng.random() < 0.7:
            state = run / "train_state.pt"
            last = state.stat().st_mtime_ns
            while process.poll() is None and state.stat().st_mtime_ns == last:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.15))  # often within the next save
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break  # it came to its end before the next kill
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
        process.send_signal(number)
        # At its end it may have come to the end; before its first step it has no state to save.
        assert process.wait() in (-number, 128 + number, 0), process.stderr.read()
        found.append(readable(run))
    train_in(folder, *flags, "--resume", "--out", run)
    return found


def killed_as_often_as(kills: int, folder: Path, valid: Path) -> None:
    flags = [*KILLED, "--valid", str(valid)]
    train_in(folder, *flags, "--out", "whole")
    done, number = 0, 0
    while done < kills:  # one run is over before it was killed a hundred times: then another
        inside = folder / str(number)
        inside.mkdir()
        found = kill_and_resume(inside, flags, kills - done, seed=number)
        assert found == sorted(found)  # nothing that was saved is lost
        assert_same(inside / "killed", folder / "whole")
        done, number = done + len(found), number + 1


def test_a_killed_run_loses_nothing(tmp_path, few_stories):
    killed_as_often_as(2, tmp_path, few_stories)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path, few_stories):
    killed_as_often_as(100, tmp_path, few_stories)
