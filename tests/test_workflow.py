"""The workflow for other systems runs the commands of .ci/run, with the versions supported."""

import re

import pytest
from helpers import ROOT

yaml = pytest.importorskip("yaml")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
JOB = WORKFLOW["jobs"]["tests"]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_it_runs_every_command_of_ci_in_its_order():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    environment = next(n for n, line in enumerate(lines) if line.startswith("source "))
    commands = [step["run"] for step in JOB["steps"] if "run" in step]
    assert commands == ["pip install '${{ matrix.torch }}'", *lines[environment + 1 :]]
    assert JOB["defaults"]["run"]["shell"] == "bash"  # also on Windows


def test_its_versions_are_the_ends_of_those_supported():
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert pythons == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert f'requires-python = ">={pythons[0]}"' in PROJECT
    matrix = JOB["strategy"]["matrix"]
    assert matrix["python"] == pythons[::2]
    oldest = re.search(r'"torch>=([\d.]+)"', PROJECT)[1]
    assert matrix["torch"] == [f"torch=={oldest}.*", "torch"]
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
