"""Running trials: in processes, after an interruption, after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from minislm.runtime.errors import UserError
from minislm.studies import runner
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Study, read_rows, run_study


def squared(n, folder):
    """In a process of its own: "kill" ends it as the system does when memory is short."""
    if n == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": n**2, "threads": torch.get_num_threads()}


def squares(*numbers, work=squared):
    plan = [[{"kind": "square", "n": n} for n in numbers]]
    return Study(lambda _: plan, {"square": work},
                 lambda rows, _: str([row["result"]["square"] for row in rows]))  # fmt: skip


def test_trials_run_in_processes_of_one_thread_each(tmp_path):
    config = StudyConfig(out=str(tmp_path), processes=2)
    assert "[0, 1, 4]" in run_study("squares", squares(0, 1, 2), config, "").read_text()
    assert {row["result"]["threads"] for row in read_rows(tmp_path / "results.jsonl")} == {1}


def test_a_killed_worker_gives_one_line(tmp_path):
    config = StudyConfig(out=str(tmp_path), processes=2)
    with pytest.raises(UserError, match="a worker of the study was killed"):
        run_study("killed", squares("kill", "kill"), config, "")


SCRIPT = """
import os, sys, time
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Study, run_study

def work(n, folder):
    (folder / f"{n}.pid").write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    study = Study(lambda _: [[{"kind": "w", "n": n} for n in range(4)]], {"w": work}, None)
    run_study("long", study, StudyConfig(out=sys.argv[1], processes=2), "")
"""


def test_sigterm_ends_the_workers_too(tmp_path):
    (tmp_path / "long.py").write_text(SCRIPT)
    script = subprocess.Popen([sys.executable, str(tmp_path / "long.py"), str(tmp_path)])
    begin = time.monotonic()
    while len(pids := list(tmp_path.glob("*.pid"))) < 2 or not all(p.read_text() for p in pids):
        assert time.monotonic() - begin < 60 and script.poll() is None
        time.sleep(0.1)
    script.terminate()
    assert script.wait(30) != 0
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_a_study_that_was_interrupted_resumes_after_the_last_trial(tmp_path):
    """Nothing runs twice; a line that a kill has cut off is not in the file any more."""
    calls = []

    def counted(n, folder):
        if n == 3 and len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(n)
        return squared(n, folder)

    config, kept = StudyConfig(out=str(tmp_path), processes=1), tmp_path / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_study("squares", squares(0, 1, 2, 3, 4, work=counted), config, "")
    assert len(read_rows(kept)) == 3
    with open(kept, "a") as file:
        file.write('{"trial": {"kind": "squ')
    calls.append("again")
    report = run_study("squares", squares(0, 1, 2, 3, 4, work=counted), config, "the command")
    assert calls == [0, 1, 2, "again", 3, 4]
    assert "[0, 1, 4, 9, 16]" in report.read_text() and "`the command`" in report.read_text()
    assert [json.loads(line)["trial"]["n"] for line in kept.read_text().splitlines()] == [*range(5)]


@pytest.mark.parametrize("content", ["{}\n", "}\n", "[1]\n", "3\n"])
def test_a_damaged_results_file_is_refused(tmp_path, content):
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        run_study("squares", squares(1), StudyConfig(out=str(tmp_path)), "")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        run_study("squares", squares(1), StudyConfig(out=str(tmp_path / "file")), "")


def test_eval_refuses_a_study_that_it_does_not_know(run_script, tmp_path):
    refused = run_script("eval.py", "--study", "generalisation")
    assert refused.code == 2 and "generalization" in refused.err
    refused = run_script(
        "eval.py", "--study", "generalization", "--tasks", "copi", "--out", tmp_path
    )
    assert refused.code == 2 and "copy" in refused.err
    (tmp_path / "results.jsonl").write_text("{}\n}\n")
    refused = run_script("eval.py", "--study", "generalization", "--out", tmp_path)
    assert refused.code == 2 and "damaged" in refused.err


def test_flags_of_a_study_without_one_are_refused(run_script):
    refused = run_script("eval.py", "--quick")
    assert refused.code == 2 and "--quick goes with --study" in refused.err


def test_a_report_warns_of_results_older_than_the_code(tmp_path, monkeypatch):
    config = StudyConfig(out=str(tmp_path), processes=1)
    assert "older code" not in run_study("squares", squares(1, 2), config, "").read_text()
    (tmp_path / "report.md").unlink()
    assert (
        "older code" not in run_study("squares", squares(1, 2), config, "").read_text()
    )  # resumed
    monkeypatch.setattr(runner, "code_digest", lambda kinds: "another")
    text = run_study("squares", squares(1, 2, 3), config, "").read_text()
    assert "Of these, 2 trials ran with older code" in text


def test_the_digest_is_that_of_the_code_without_comments(tmp_path, monkeypatch):
    for folder in ("studies", "stories", "cli"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "studies" / "runner.py"))
    core = tmp_path / "model.py"
    core.write_text("x = 1\n")
    digests = [runner.code_digest({})]

    def changed():
        digests.append(runner.code_digest({}))
        return digests[-1] != digests[-2]

    core.write_text("# why\nx  =  1\n")
    assert not changed()
    core.write_text("x = 2\n")
    assert changed()
    for name, counts in (("stories/plot.py", True), ("studies/arms.py", True),
                         ("studies/trends.py", False), ("cli/train.py", False)):  # fmt: skip
        (tmp_path / name).write_text("y = 1\n")
        assert changed() == counts, name
    assert runner.code_digest({"a": clip}) != runner.code_digest({"a": share}) != digests[-1]


def clip(folder):
    return {"a": 1}


def share(folder):
    return {"a": 2}
