"""Runs a study: many small independent trials, whose results are kept, and a report at the end."""

import ast
import hashlib
import inspect
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from minislm.runtime.errors import UserError
from minislm.runtime.files import append_line, atomic_write, os_error
from minislm.studies.config import STUDIES, StudyConfig

Trial = dict[str, Any]  # {"kind": str, ...}: JSON values
Result = dict[str, Any]  # JSON values
Row = dict[str, Any]  # {"trial": Trial, "result": Result, "seconds": float}


class Study(NamedTuple):
    plan: Callable[[StudyConfig], list[list[Trial]]]  # phases: each waits for the one before
    kinds: dict[str, Callable[..., Result]]  # by kind of trial: from it, the result
    report: Callable[[list[Row], Path], str]  # Markdown; writes plots into the folder


def run_study(name: str, study: Study, config: StudyConfig, command: str) -> Path:
    """Run the trials without a line in results.jsonl, write FOLDER/report.md after each phase and
    return its path.
    UserError: a worker process was killed, or the folder cannot be written to."""
    folder = Path(config.out or Path("runs/studies") / (name + "-quick" * config.quick))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error(f"create {folder}", error, "give another folder as --out") from error
    phases, path, code = study.plan(config), folder / "results.jsonl", code_digest(study.kinds)
    done = {_key(row["trial"]): row for row in read_rows(path)}
    for phase in phases:
        missing = [trial for trial in phase if _key(trial) not in done]
        rows = _run(study.kinds, missing, folder, config.processes or os.cpu_count() or 1)
        for row in tqdm(rows, total=len(missing), unit="trial", disable=None):
            line = json.dumps(row | {"code": code})
            append_line(path, line, "give the same command")
            done[_key(row["trial"])] = json.loads(line)  # as a resumed study reads it
        rows = [done[key] for key in map(_key, sum(phases, [])) if key in done]
        head = f"# Study: {name}\n\n{_origin(rows, command, code)}"
        atomic_write(folder / "report.md", f"{head}\n\n{study.report(rows, folder)}")
    return folder / "report.md"


def code_digest(kinds: dict[str, Callable[..., Result]]) -> str:
    """Of the code that results rest on, without its comments: the core, the folders that trials
    use, this one but for plans and reports, and the functions that run the trials."""
    plans = {Path(__file__).with_name(f"{study}.py") for study in STUDIES}
    files = {file for part in (".", "fast", "stories", "studies")
             for file in Path(__file__).parents[1].joinpath(part).glob("*.py")} - plans  # fmt: skip
    code = [file.read_text(encoding="utf-8") for file in sorted(files)]
    code += [textwrap.dedent(inspect.getsource(each)) for each in kinds.values()]
    trees = (ast.dump(ast.parse(each)) for each in code)
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:12]


def _origin(rows: Sequence[Row], command: str, code: str) -> str:
    """How and by which code the rows were made; `code` is the digest of today's."""
    here = shlex.quote(str(Path(__file__).parent))
    commit = subprocess.getoutput(f"git -C {here} describe --always --dirty 2>/dev/null")
    minutes = sum(row["seconds"] for row in rows) / 60
    older = sum(row.get("code") != code for row in rows)
    note = f" **Of these, {older} trials ran with older code than the report.**" if older else ""
    return (f"`{command}`, commit {commit or 'unknown'}, torch {torch.__version__}, {len(rows)} "
            f"trials, {minutes:.0f} minutes of one core.{note}")  # fmt: skip


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file; a last line that was cut off by a kill is removed from it."""
    text = path.read_bytes() if path.is_file() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        atomic_write(path, whole)
    try:
        rows = map(json.loads, whole.splitlines())
        return [{key: row[key] for key in ("trial", "result", "seconds", "code")} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); delete it to start again") from error


def _key(trial: Trial) -> str:
    return json.dumps(trial, sort_keys=True)


def _run(
    kinds: dict[str, Callable], trials: Sequence[Trial], folder: Path, processes: int
) -> Iterator[Row]:
    """The rows of trials as they finish; with one process, here and in order."""
    calls = [(kinds[trial["kind"]], trial, folder) for trial in trials]
    if processes == 1 or len(trials) < 2:
        yield from (_timed(*call) for call in calls)
        return
    context, ignore = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    # The workers ignore Ctrl-C: this process ends them, after SIGTERM too.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProcessPoolExecutor(processes, context, signal.signal, ignore) as pool:
        try:
            for done in as_completed([pool.submit(_timed, *call) for call in calls]):
                yield done.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker of the study was killed; {folder} keeps the finished trials: give the "
                "same command again, with a smaller --processes if memory was short"
            ) from error
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()  # its trial starts again the next time
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)


def _timed(work: Callable[..., Result], trial: Trial, folder: Path) -> Row:
    """A trial on one thread, so that its result depends on nothing else that runs."""
    threads, begin = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        options = {name: value for name, value in trial.items() if name != "kind"}
        result = work(**options, folder=folder)
    finally:
        torch.set_num_threads(threads)
    return {"trial": trial, "result": result, "seconds": round(time.perf_counter() - begin, 2)}
