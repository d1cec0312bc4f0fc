"""The page of eval.py --inspect, opened in a browser where there is one; and --off."""

import base64
import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from interpret import browser

from minislm.interpret import page
from minislm.interpret.activations import Analysis, Head, Peak

NO_BROWSER = pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")
HOSTILE = 'A dog </script><script>window.broken = 1</script> <b>ran</b> & "sat" on the mat.'


@pytest.fixture(scope="module")
def inspected(tiny_run, tmp_path_factory):
    """The page of a tiny run, made by eval.py; and one of a hostile text."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for name, text in (("plain", "Once upon a time, there was a little dog. It ran."),
                       ("hostile", HOSTILE)):  # fmt: skip
        made[name] = folder / f"{name}.html"
        flags = ["--inspect", text, "--model", tiny_run, "--out", made[name], "--threads", 1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["eval.py", *map(str, flags)])
            runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    return made


def data_of(path):
    return json.loads(path.read_text().split('id="data">')[1].split("</script>")[0])


def test_the_page_is_one_file_without_links(inspected):
    text = inspected["plain"].read_text()
    assert not re.search(r'(src|href)\s*=\s*"', text) and "@import" not in text
    assert not any(mark in text for mark in ("/*DATA*/", "/*STYLE*/", "/*SCRIPT*/"))


def test_the_page_has_what_the_model_computes(inspected):
    data = data_of(inspected["plain"])
    assert "".join(token["text"] for token in data["tokens"][1:]).endswith("little dog. It ran.")
    assert data["tokens"][0]["loss"] is None and data["tokens"][1]["loss"] > 0
    assert all(len(token["alternatives"]) == 5 for token in data["tokens"][1:])
    assert data["attention"]["shape"][:2] == [1, 4] and len(data["heads"]) == 4
    assert all(head["kind"] in ("distance", "semantic") for head in data["heads"])
    assert len(data["neurons"][0]) > 50 and all(neuron for neuron in data["neurons"][0])


def test_plots_lie_beside_the_page(inspected):
    for name in ("plain-attention.png", "plain-losses.png"):
        assert (inspected["plain"].parent / name).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_page_and_no_plot(run_script, tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run_script("eval.py", "--model", tiny_run, "--inspect", "A dog", "--out", "a.html")
    assert done.code == 0 and "pip install -e '.[plot]'" in done.err
    assert "page: a.html" in done.out and "plot:" not in done.out


def test_the_table_of_heads_is_sorted_by_the_effect_of_ablation(run_script, tiny_run):
    done = run_script("eval.py", "--model", tiny_run, "--inspect", "A dog", "--out", "a.html")
    rows = [line.split() for line in done.out.splitlines()[1:5]]
    assert sorted(row[0] for row in rows) == ["0.0", "0.1", "0.2", "0.3"]
    increases = [float(row[-1]) for row in rows]
    assert increases == sorted(increases, reverse=True)


def test_no_text_can_end_the_data(tmp_path):
    """Neither a token nor a neuron's context, whatever a tokenizer has in one token."""
    text = Analysis(
        ["", HOSTILE + "/*STYLE*/"], np.array([4, 4]), np.array([np.nan, 1.0]),
        [[], [(HOSTILE, 1.0)]], torch.eye(2)[None, None],
    )  # fmt: skip
    heads = [Head(0, 0, "semantic", "nouns", 0.5, 0.25)]
    peaks = [[[Peak(1.0, HOSTILE, HOSTILE, HOSTILE)]]]
    about = {"model": HOSTILE, "ablated": "", "parameters": 1, "stories": 1}
    page.write_page(tmp_path / "p.html", about, text, heads, peaks)
    data = data_of(tmp_path / "p.html")
    assert data["tokens"][1]["text"] == HOSTILE + "/*STYLE*/" and data["model"] == HOSTILE
    assert data["neurons"] == [[[[1.0, HOSTILE, HOSTILE, HOSTILE]]]]
    assert "<" not in (tmp_path / "p.html").read_text().split('id="data">')[1].split("</script>")[0]


def test_top_weights_are_those_of_the_maps():
    maps = torch.rand(2, 3, 40, 40).tril()
    maps /= maps.sum(-1, keepdim=True)
    found = page.top_weights(maps)
    L, H, T, n = found["shape"]
    positions, weights = (
        np.frombuffer(base64.b64decode(found[name]), "<u2").reshape(L, H, T, n)
        for name in ("positions", "weights")
    )
    decoded = np.zeros((L, H, T, T))
    np.put_along_axis(decoded, positions.astype(int), weights / 65535, -1)
    assert np.allclose(decoded, maps.numpy(), atol=1e-5)
    assert np.allclose(decoded.sum(-1), 1, atol=1e-3)
    long = page.top_weights(torch.ones(1, 1, 300, 300).tril() / 300)
    assert long["shape"] == [1, 1, 300, page.TOP_WEIGHTS]


def test_eight_blocks_of_sixteen_heads_over_500_tokens_are_at_most_12_megabytes():
    maps = torch.rand(8, 16, 500, 500).tril()
    assert len(json.dumps(page.top_weights(maps))) < 12e6


@NO_BROWSER
def test_in_a_browser_the_mouse_selects_and_the_search_finds(inspected):
    here = browser.Browser(inspected["plain"].as_uri())
    try:
        assert here.errors == []
        panel = 'document.querySelector("#token").textContent'
        before = here.run(panel)
        here.point("#text span:nth-child(6)")
        assert here.run(panel) != before and "Most probable alternatives" in here.run(panel)
        maps = 'document.querySelector("#map").toDataURL()'
        first = here.run(maps)
        here.point(".head:nth-of-type(2)", click=True)
        assert here.run(maps) != first  # another head, another map
        second = here.run(maps)
        here.point("#map", 0.1, 0.9)
        caption = here.run('document.querySelector("#caption").textContent')
        assert here.run(maps) != second and "attends to" in caption and "with weight" in caption
        cards = 'document.querySelectorAll(".neuron").length'
        everything, count = here.run(cards), 'document.querySelector("#count").textContent'
        type_in(here, "0.1")
        heading = here.run('document.querySelector(".neuron h4").textContent')
        assert 1 <= here.run(cards) and heading.startswith("neuron 0.1,")
        type_in(here, "zzzz")
        assert here.run(cards) == 0 and here.run(count).startswith("0 of") and everything > 0
        assert here.errors == []
    finally:
        here.close()


def type_in(here, text):
    here.run(f'document.querySelector("#search").value = "{text}"; '
             'document.querySelector("#search").dispatchEvent(new Event("input"))')  # fmt: skip


@NO_BROWSER
def test_in_a_browser_the_arrow_keys_select_and_no_script_of_the_text_runs(inspected):
    here = browser.Browser(inspected["hostile"].as_uri(), width=400, height=800, dark=True)
    try:
        assert here.errors == [] and here.run("window.broken") is None
        text = here.run('[...document.querySelectorAll("#text span")].slice(1)'
                        '.map((span) => span.textContent).join("")')  # fmt: skip
        assert text == HOSTILE
        here.run('document.querySelector("#text [tabindex=\\"0\\"]").focus()')
        at = '[...document.querySelectorAll("#text span")].indexOf(document.activeElement)'
        first = here.run(at)
        here.key("ArrowRight")
        here.key("ArrowRight")
        assert here.run(at) == first + 2
        assert here.run("document.documentElement.scrollWidth") <= 400  # no horizontal scrolling
        light, dark = "rgb(251, 250, 247)", "rgb(20, 23, 27)"
        assert here.run("getComputedStyle(document.body).backgroundColor") == dark != light
    finally:
        here.close()


def test_inspect_and_off_refuse_what_they_cannot_do(run_script, tiny_run):
    for flags, words in (
        (["--inspect", " "], "--inspect needs a text"),
        (["--inspect", "A dog", "--off", "head:7.1"], "the model has blocks 0 to 0"),
        (["--off", "x"], "--off takes"),
        (["--off", "head:0.1", "--dtype", "int8"], "int8"),
    ):
        done = run_script("eval.py", "--model", tiny_run, *flags)
        assert done.code == 2 and words in done.err and "Traceback" not in done.err


def test_off_compares_loss_and_text(run_script, tiny_run):
    done = run_script("eval.py", "--model", tiny_run, "--off", "head:0.1,neuron:0.2")
    assert done.code == 0 and "ablated head:0.1,neuron:0.2:" in done.out
    assert "  model:   " in done.out and "  ablated: " in done.out
