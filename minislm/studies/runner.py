"""Studies: many small runs, each a job whose row is kept, and a report at the end.

A study is a plan of jobs (plain JSON objects), a function that does one, and a function that turns
the rows into a report. Jobs run on all cores, one thread each, so that a job's result depends on
nothing but the job. Every finished job is a line of results.jsonl: a study that was stopped goes
on where it was, and one that is asked for again only reports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minislm.runtime.errors import UserError
from minislm.runtime.files import append_line, atomic_write
from minislm.studies.config import StudyConfig

Job = dict[str, Any]
Row = dict[str, Any]  # {"job": the job, "result": what it gave, "seconds": how long it took}
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Study:
    """What a study is made of.

    `plan` gives phases of jobs: a phase begins when the one before is done. `work` does a job in
    the study's folder, where it may keep models for later phases. `report` writes pictures into
    the folder and returns Markdown.
    """

    plan: Callable[[StudyConfig], list[list[Job]]]
    work: Callable[[Job, Path], Any]
    report: Callable[[list[Row], Path], str]


def run(name: str, study: Study, config: StudyConfig, command: str) -> Path:
    """Do what is left of a study and write FOLDER/report.md; returns its path.

    Raises:
        UserError: a worker was killed; the folder cannot be written to.
    """
    folder = Path(config.out or Path("runs/studies") / (name + "-quick" * config.quick))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}; give a folder") from error
    phases = study.plan(config)
    done = {_key(row["job"]): row for row in read_rows(folder / RESULTS)}
    planned = [job for phase in phases for job in phase]
    with tqdm(total=len(planned), unit="run", disable=None, dynamic_ncols=True) as bar:
        bar.update(sum(_key(job) in done for job in planned))
        for phase in phases:
            left = [job for job in phase if _key(job) not in done]
            for row in _do(study.work, left, folder, config.processes or os.cpu_count() or 1):
                row = json.loads(json.dumps(row))  # as it will be read again
                done[_key(row["job"])] = row
                append_line(folder / RESULTS, json.dumps(row), "give the same command")
                bar.update()
    rows = [done[_key(job)] for job in planned]
    minutes = sum(row["seconds"] for row in rows) / 60
    head = (
        f"# Study: {name}\n\n`{command}` at commit {_commit()}, torch {torch.__version__}: "
        f"{len(rows)} runs, {minutes:.0f} minutes of one core.\n\n"
    )
    path = folder / "report.md"
    atomic_write(path, head + study.report(rows, folder))
    return path


def read_rows(path: Path) -> list[Row]:
    """The rows kept so far; a last line that was cut off when a study was killed is dropped."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        atomic_write(path, whole.decode())
    try:
        return [json.loads(line) for line in whole.decode().splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it to begin again") from error


def _key(job: Job) -> str:
    return json.dumps(job, sort_keys=True)


def _do(
    work: Callable[[Job, Path], Any], jobs: Sequence[Job], folder: Path, processes: int
) -> Iterator[Row]:
    """The rows of jobs as they get done; with one process, here and in order."""
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield _timed(work, job, folder)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_ignore_interrupts) as pool:
        pending = {pool.submit(_timed, work, job, folder) for job in jobs}
        try:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for each in ended:
                    yield each.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker of the study was killed; {folder} keeps what is done: give the same "
                "command again, with a smaller --processes if memory was short"
            ) from error
        finally:
            for process in list((pool._processes or {}).values()) if pending else []:
                process.terminate()  # a job cut off is done again the next time
            pool.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked for jobs


def _timed(work: Callable[[Job, Path], Any], job: Job, folder: Path) -> Row:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    try:
        result = work(job, folder)
    finally:
        torch.set_num_threads(threads)
    return {"job": job, "result": result, "seconds": round(time.perf_counter() - begin, 2)}


def _commit() -> str:
    here = Path(__file__).parent
    try:
        asked = ["git", "describe", "--always", "--dirty"]
        found = subprocess.run(asked, cwd=here, capture_output=True, text=True)
    except OSError:  # no git here
        return "unknown"
    return found.stdout.strip() or "unknown"
