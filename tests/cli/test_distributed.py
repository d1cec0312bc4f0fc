"""Several processes, started by torchrun, train as one does and stop as one does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, read_metrics, train_in

from minislm import checkpoint

RUN = [*TINY, "--stories", "40", "--samples", "0", "--tasks", "copy", "--evals", "5",
       "--dtype", "float32", "--seed", "1"]  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def start(
    folder: Path, *flags: object, script: str = "train.py", restarts: int = 0
) -> subprocess.Popen:
    command = [sys.executable, *TORCHRUN, "--max-restarts", str(restarts), str(ROOT / script)]
    command += map(str, flags)
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def flags(few_stories) -> list[object]:
    return [*RUN, "--valid", few_stories, "--steps", 50, "--out", "run"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, flags) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_in(folder, *flags)
    return folder / "run"


def assert_trained_alike(one: Path, other: Path) -> None:
    """Losses to 1e-4, and weights close to one another."""
    first, second = (read_metrics(run) for run in (one, other))
    assert [r["step"] for r in first] == [r["step"] for r in second]
    assert [r["tokens"] for r in first] == [r["tokens"] for r in second]
    for a, b in zip(first, second):
        for name in ("train_loss", "valid_loss", "bits_per_byte"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), (a["step"], name)
    weights = [checkpoint.load_state(run)["model"] for run in (one, other)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-3, rtol=0)


def test_two_processes_train_as_one_does(alone, flags, tmp_path):
    """50 steps with the default optimizer, Muon; the first process prints, once."""
    out, err = done(start(tmp_path, *flags))
    assert_trained_alike(alone, tmp_path / "run")
    assert out.count("exact match") == 1 and err.count("run     run") == 1


def test_ctrl_c_stops_all_at_the_same_step_and_one_process_can_resume(
    alone, flags, tmp_path, run_script
):
    state = tmp_path / "run" / "train_state.pt"
    process = start(tmp_path, *flags)
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode and err.count("resume with") == 1, err
    assert run_script("train.py", "--resume", "--out", "run").code == 0
    assert_trained_alike(alone, tmp_path / "run")


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="needs pgrep to find the processes")
def test_a_killed_process_is_restarted_with_the_same_command(alone, flags, tmp_path):
    """Once before there is a run, and once after the first state."""
    process = start(tmp_path, *flags, "--resume", restarts=2)
    for awaited in (".lock", "train_state.pt"):
        while process.poll() is None and not (tmp_path / "run" / awaited).exists():
            time.sleep(0.01)
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        killed = int(found.stdout.split()[-1])
        os.kill(killed, signal.SIGTERM)
        while process.poll() is None and str(killed) in subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
        ).stdout.split():  # fmt: skip
            time.sleep(0.01)
    _, err = done(process)
    assert err.count("run     run") >= 2 and "Traceback" not in err
    assert_trained_alike(alone, tmp_path / "run")


def test_a_mistake_is_reported_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({}))
    process = start(tmp_path, *RUN, "--steps", 2, "--out", "run")
    _, err = process.communicate(timeout=60)
    assert process.returncode and err.count("error: --out run holds a run already") == 1


def test_prompts_are_dealt_out_and_have_the_same_text_as_in_one_process(
    tiny_run, tmp_path, run_script
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Once there were {n} dogs\n" for n in range(7)))
    flags = ["--model", tiny_run, "--max-new-tokens", 12, "--prompt-file"]
    alone = run_script("sample.py", *flags, prompts).out
    together, _ = done(start(tmp_path, *flags, prompts, "--json", "out.json", script="sample.py"))
    assert together == alone and alone.count("Once there were") == 7
    assert len(json.loads((tmp_path / "out.json").read_text())["samples"]) == 7
    prompts.write_text("One dog\n" + 400 * "too long " + "\n")  # the second process's
    process = start(tmp_path, *flags, prompts, script="sample.py")
    _, err = process.communicate(timeout=100)
    assert process.returncode and err.count("error:") == 1 and "context" in err
