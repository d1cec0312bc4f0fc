"""The page about a model's inside, opened in a browser where there is one."""

import base64
import json
import re

import browser
import numpy as np
import pytest
import torch

from minislm.interpret import page

NO_BROWSER = pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")
HOSTILE = 'A dog </script><script>window.broken = 1</script> <b>ran</b> & "sat" on the mat.'


@pytest.fixture(scope="module")
def inspected(tiny_run, tmp_path_factory):
    """The page of a tiny run, made by eval.py; and one of a hostile text."""
    import runpy
    import sys

    from helpers import ROOT

    folder, made = tmp_path_factory.mktemp("pages"), {}
    argv = sys.argv
    for name, text in (("plain", "Once upon a time, there was a little dog. It ran."),
                       ("hostile", HOSTILE)):  # fmt: skip
        made[name] = folder / f"{name}.html"
        sys.argv = ["eval.py", "--inspect", text, "--model", str(tiny_run), "--page",
                    str(made[name]), "--threads", "1"]  # fmt: skip
        try:
            runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
        except SystemExit as end:
            assert not end.code
        finally:
            sys.argv = argv
    return made


def test_the_page_is_one_file_that_names_no_other(inspected):
    text = inspected["plain"].read_text()
    assert not re.search(r'(src|href)\s*=\s*"', text) and "@import" not in text
    assert "/*DATA*/" not in text and "/*STYLE*/" not in text
    assert (inspected["plain"].parent / "plain-attention.png").stat().st_size > 1000
    assert (inspected["plain"].parent / "plain-losses.png").stat().st_size > 1000


def test_no_text_can_end_the_data(tmp_path):
    """Neither a token nor a neuron's neighbours, whatever a tokenizer holds in one piece."""
    pieces = ["", HOSTILE]
    losses = np.array([np.nan, 1.0])
    text = page.Text([0, 1], pieces, np.array([4, 4]), losses, [[], [(HOSTILE, 1.0)]])
    peaks = [[[page.Peak(1.0, HOSTILE, HOSTILE, HOSTILE)]]]
    about = {"model": HOSTILE, "off": "", "parameters": 1, "stories": 1, "validation": 1}
    page.write_page(tmp_path / "p.html", about, text, torch.eye(2)[None, None], [], peaks)
    data = (tmp_path / "p.html").read_text().split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and json.loads(data)["tokens"][1]["text"] == HOSTILE


def test_packed_rows_are_the_maps():
    maps = torch.rand(2, 3, 40, 40).tril()
    maps /= maps.sum(-1, keepdim=True)
    packed = page.pack(maps)
    L, H, T, K = packed["shape"]
    places, weights = (
        np.frombuffer(base64.b64decode(packed[name]), "<u2").reshape(L, H, T, K)
        for name in ("places", "weights")
    )
    again = np.zeros((L, H, T, T))
    np.put_along_axis(again, places.astype(int), weights / 65535, -1)
    assert np.allclose(again, maps.numpy(), atol=1e-5) and np.allclose(again.sum(-1), 1, atol=1e-3)
    long = page.pack(torch.ones(1, 1, 300, 300).tril() / 300)
    assert long["shape"] == [1, 1, 300, page.KEPT]


def test_eight_blocks_of_sixteen_heads_over_500_tokens_stay_a_sensible_file():
    maps = torch.rand(8, 16, 500, 500).tril()
    assert len(json.dumps(page.pack(maps))) < 12e6


@NO_BROWSER
def test_in_a_browser_hovering_changes_the_picture_and_the_search_finds(inspected):
    here = browser.Browser(inspected["plain"].as_uri())
    try:
        assert here.errors == []
        panel = 'document.querySelector("#token").textContent'
        before = here.run(panel)
        here.point("#text span:nth-child(6)")
        assert here.run(panel) != before and "expected" in here.run(panel)
        maps = 'document.querySelector("#map").toDataURL()'
        first = here.run(maps)
        here.point(".head:nth-of-type(2)", click=True)
        assert here.run(maps) != first  # another head, another map
        second = here.run(maps)
        here.point("#map", 0.1, 0.9)
        assert here.run(maps) != second and "reads" in here.run(
            'document.querySelector("#caption").textContent')  # fmt: skip
        cards = 'document.querySelectorAll(".neuron").length'
        everything, count = here.run(cards), 'document.querySelector("#count").textContent'
        here.run('document.querySelector("#search").value = "0.1"; '
                 'document.querySelector("#search").dispatchEvent(new Event("input"))')  # fmt: skip
        assert 1 <= here.run(cards) and here.run(
            'document.querySelector(".neuron h4").textContent').startswith("neuron 0.1,")  # fmt: skip
        here.run('document.querySelector("#search").value = "zzzz"; '
                 'document.querySelector("#search").dispatchEvent(new Event("input"))')  # fmt: skip
        assert here.run(cards) == 0 and here.run(count).startswith("0 of") and everything > 0
        assert here.errors == []
    finally:
        here.close()


@NO_BROWSER
def test_in_a_browser_the_keyboard_walks_and_nothing_runs_that_the_text_says(inspected):
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
        assert here.run("document.documentElement.scrollWidth") <= 400  # nothing sticks out
        light, dark = "rgb(251, 250, 247)", "rgb(20, 23, 27)"
        assert here.run("getComputedStyle(document.body).backgroundColor") == dark != light
    finally:
        here.close()


def test_inspect_and_off_refuse_what_they_cannot_do(run_script, tiny_run):
    for flags, words in (
        (["--inspect", " "], "--inspect takes a text"),
        (["--inspect", "A dog", "--off", "head:7.1"], "the model has blocks 0 to 0"),
        (["--off", "x"], "--off takes"),
        (["--off", "head:0.1", "--dtype", "int8"], "int8"),
    ):
        done = run_script("eval.py", "--model", tiny_run, *flags)
        assert done.code == 2 and words in done.err and "Traceback" not in done.err
    done = run_script("eval.py", "--model", tiny_run, "--off", "head:0.1,neuron:0.2")
    assert done.code == 0 and "without head:0.1, neuron:0.2:" in done.out and "whole:" in done.out
