"""Several processes train as one does, stop as one does, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, train_in

from minislm import checkpoint
from minislm.runtime import process_group as distributed

RUN = [*TINY, "--stories", "40", "--samples", "0", "--tasks", "copy", "--evals", "5",
       "--dtype", "float32", "--seed", "1"]  # fmt: skip


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def start(
    folder: Path, *flags: object, launcher: tuple[str, ...] = (), script: str = "train.py"
) -> subprocess.Popen:
    command = [sys.executable, *launcher, str(ROOT / script), *map(str, flags)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def asked(few_stories) -> list[object]:
    return [*RUN, "--valid", few_stories, "--steps", 50, "--out", "run"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, asked) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_in(folder, *asked)
    return folder / "run"


def assert_trained_alike(one: Path, other: Path) -> None:
    """Losses to 1e-4, and weights close to one another."""
    first, second = (checkpoint.read_metrics(run) for run in (one, other))
    assert [r["step"] for r in first] == [r["step"] for r in second]
    assert [r["tokens"] for r in first] == [r["tokens"] for r in second]
    for a, b in zip(first, second):
        for name in ("train_loss", "valid_loss", "bits_per_byte"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), (a["step"], name)
    weights = [checkpoint.load_state(run)["model"] for run in (one, other)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-3, rtol=0)


@pytest.mark.slow  # the next test but one holds the same against a run that was killed
def test_two_processes_train_as_one_does(alone, asked, tmp_path):
    """50 steps with the default optimizer, Muon; one of them tells what happens, once."""
    out, err = done(start(tmp_path, *asked, "--processes", 2))
    assert_trained_alike(alone, tmp_path / "run")
    assert out.count("exact match") == 1 and err.count("run     run") == 1


def test_torchrun_does_the_same(alone, asked, tmp_path):
    out, _ = done(start(tmp_path, *asked, launcher=TORCHRUN))
    assert_trained_alike(alone, tmp_path / "run")
    assert out.count("exact match") == 1


def test_a_killed_process_ends_the_others_with_one_line_and_the_run_goes_on(alone, asked, tmp_path):
    state = tmp_path / "run" / "train_state.pt"
    process = start(tmp_path, *asked, "--processes", 2)
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begin < 20 and process.returncode == 2
    assert "was killed (SIGKILL)" in err and "--resume" in err
    for child in children:
        assert not Path(f"/proc/{child}").exists()
    done(start(tmp_path, "--resume", "--out", "run", "--processes", 2))
    assert_trained_alike(alone, tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_stops_all_at_the_same_step_and_one_process_can_go_on(alone, asked, tmp_path):
    state = tmp_path / "run" / "train_state.pt"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, asked), "--processes",
         "2"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count("go on with") == 1, err
    done(start(tmp_path, "--resume", "--out", "run", "--processes", 1))
    assert_trained_alike(alone, tmp_path / "run")


def test_a_mistake_is_told_once(tmp_path):
    process = start(tmp_path, "--width", "30", "--n-head", "7", "--processes", 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("error:") == 1
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({}))
    process = start(tmp_path, *RUN, "--steps", 2, "--out", "run", "--processes", 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("error:") == 1 and "holds a run already" in err


@pytest.mark.parametrize(
    "first, second, told, code",
    [
        ("time.sleep(60)", "raise ValueError('its own')", ["ValueError: its own"], 1),
        ("time.sleep(0.2); sys.exit(1)", "raise ValueError('its own')", ["ValueError: its own"], 1),
        ("time.sleep(60)", "print('full', file=sys.stderr); sys.exit(2)", ["full"], 2),
        ("time.sleep(0.2); sys.exit(2)", "raise ValueError('the same')", [], 2),
        ("sys.exit(1)", "time.sleep(60)", [], 1),
    ],
)
def test_what_only_one_process_met_is_told(first, second, told, code, capfd):
    """And nothing else where the first process says why it ended."""
    work = f"import os, sys, time\nif os.environ['RANK'] == '0': {first}\nelse: {second}"
    assert distributed.start(2, 1, [sys.executable, "-c", work]) == code
    assert capfd.readouterr().err.splitlines()[-1:] == told


def test_prompts_are_dealt_out_and_say_what_they_say_alone(tiny_run, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Once there were {n} dogs\n" for n in range(7)))
    asked = ["--model", tiny_run, "--max-new-tokens", 12, "--prompt-file"]
    alone, _ = done(start(tmp_path, *asked, prompts, script="sample.py"))
    together, _ = done(start(tmp_path, *asked, prompts, "--json", "out.json", script="sample.py", launcher=TORCHRUN))
    assert together == alone and alone.count("Once there were") == 7
    assert len(json.loads((tmp_path / "out.json").read_text())["samples"]) == 7
    prompts.write_text("One dog\n" + 400 * "too long " + "\n")  # the second process's
    process = start(tmp_path, *asked, prompts, script="sample.py", launcher=TORCHRUN)
    _, err = process.communicate(timeout=100)
    assert process.returncode and err.count("error:") == 1 and "context" in err
