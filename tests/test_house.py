"""The house itself: floors, sizes, and what the README says about it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

ROOMS = sorted((ROOT / "minislm").glob("*.py"))
SCRIPTS = [ROOT / name for name in ("train.py", "sample.py", "eval.py")]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A room imports only from floors below its own.
FLOORS = [
    {"errors", "lexicon", "duplicates", "intervals", "pictures", "overlap", "prompts"},
    {"config", "files", "teller", "hub", "cleaning", "scores"},
    {"synthetic", "plots", "tokenizer", "judge"},
    {"numerals", "reading", "workers", "pickles", "cache", "attention",
     "lanes"},
    {"model", "baselines", "corpus", "stories", "device", "llama2c", "families"},
    {"settings", "distributed", "batches", "loss", "optimizer", "checkpoint", "pretrained", "packed",
     "recorded", "selection"},
    {"choice", "compiled", "captured", "ablation", "gradients", "llamacpp"},
    {"layouts"},
    {"engine"},
    {"batch", "beam"},
    {"sampler"},
    {"evaluation", "grading", "peers", "experiments", "apart"},
    {"training", "interpret", "pace"},
    {"pipeline", "finetune", "page"},
    {"compare", "benchmark", "subjects"},
    {"console", "verdict", "findings", "classes", "amounts", "sweep"},
    {"studies", "scoreboard", "inside"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = {room for rooms in FLOORS[:3] for room in rooms} | {
    "reading", "workers", "corpus", "stories"
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """The rooms a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "minislm":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minislm."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("minislm.")}
    return found


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_a_room_imports_only_from_floors_below(path):
    if path.stem == "__init__":
        return
    assert path.stem in FLOOR, f"{path.name} stands on no floor"
    for other in imports(path):
        assert FLOOR[other] < FLOOR[path.stem], f"{path.stem} imports {other}"


def test_every_room_on_a_floor_is_there():
    assert {path.stem for path in ROOMS} - {"__init__"} == set(FLOOR)


def test_the_low_floors_do_not_need_torch():
    names = ", ".join(f"minislm.{room}" for room in sorted(WITHOUT_TORCH))
    code = f"import {names}, sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""  # and importing does no work that shows


def test_sizes_stay_readable():
    assert len((ROOT / "minislm" / "model.py").read_text().splitlines()) < 300
    for script in SCRIPTS:
        assert len(script.read_text().splitlines()) < 80, script.name


@pytest.mark.parametrize("path", ROOMS + SCRIPTS, ids=lambda path: path.name)
def test_lines_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= 100, f"line {number}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_nothing_unpickles_freely():
    for path in ROOMS + SCRIPTS:
        text = path.read_text(encoding="utf-8")
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path.name
        assert "pickle.load" not in text and not re.search(r"(?<![.\w])(eval|exec)\(", text), path.name


def test_the_readme_shows_every_room():
    for path in ROOMS:
        if path.stem != "__init__":
            assert f"{path.name}" in README, path.name


def test_the_readme_uses_only_flags_that_exist():
    known = ""
    for script in SCRIPTS:
        done = subprocess.run(
            [sys.executable, script, "--help"], capture_output=True, text=True, cwd=ROOT
        )
        known += done.stdout
    commands = re.findall(r"python (?:train|sample|eval)\.py[^\n`]*", README)
    assert commands
    for command in commands:
        for flag in re.findall(r"(?<= )--[a-z-]+", command):
            assert flag in known, f"{flag} in {command}"


def test_the_two_commands_of_the_readme_are_the_ones_ci_runs():
    assert "pip install -e . && python train.py" in README
    assert "pip install -e '.[test]' && pytest" in README
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text()
