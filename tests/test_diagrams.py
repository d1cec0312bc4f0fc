"""The pictures of the documents are what the script makes of the code of today."""

import importlib.util

import pytest
from helpers import ROOT


@pytest.mark.parametrize("name", ["model", "batch"])
def test_a_diagram_is_that_of_the_code(name):
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "data" / "diagrams.py")
    diagrams = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagrams)
    picture = getattr(diagrams, f"{name}_diagram")()
    assert picture == (ROOT / "data" / f"{name}.svg").read_text()
