"""The page of eval.py --inspect, opened in a browser where there is one; and --off."""

from __future__ import annotations

import json
import re
import runpy
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, random_model
from interpret import browser

from minislm.dataset import TokenDataset
from minislm.interpret import page
from minislm.interpret.attribution import attribute
from minislm.pretrained.load import load
from minislm.sampler import Sampler

NO_BROWSER = pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")
HOSTILE = (
    "A dog </script><script>window.broken = 1</script> "
    '<img src=x onerror="window.broken=1"> & "sat".'
)
PROMPT = "Once upon a time, there was a little dog."


@pytest.fixture(scope="module")
def pages(tiny_run, tmp_path_factory):
    """The page of a tiny run, made by eval.py; and one of a hostile text."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for name, flags in (("plain", [PROMPT, "--dtype", "float32"]), ("hostile", [HOSTILE])):
        made[name] = folder / f"{name}.html"
        flags = ["--inspect", *flags, "--model", tiny_run, "--out", made[name], "--threads", 1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["eval.py", *map(str, flags)])
            runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    return made


@pytest.fixture
def opened(pages):
    """Opens a page and waits until its first story is complete; closed at the end."""
    open_pages = []

    def open_page(name, more="", **options):
        here = browser.Browser(pages[name].as_uri() + more, **options)
        open_pages.append(here)
        wait_for(here, "document.body.dataset.ready === 'yes' && !state.busy && state.at > 0")
        return here

    yield open_page
    for each in open_pages:
        each.close()


def wait_for(here, condition, seconds=30):
    end = time.monotonic() + seconds
    while not here.run(f"Boolean({condition})"):
        assert time.monotonic() < end, (condition, here.errors, here.run("$('note').textContent"))
        time.sleep(0.05)


def account_is(here, token):
    """Wait for the whole account of a token: the words that it read come last."""
    here.run(f"$('account').dataset.words = ''; void select({token})")
    wait_for(here, "$('account').dataset.words !== ''")


def data_of(path):
    return json.loads(path.read_text().split('id="data">')[1].split("</script>")[0])


def test_the_page_is_one_file_without_links(pages):
    text = pages["plain"].read_text()
    assert not re.search(r'(src|href)\s*=\s*"', text) and "@import" not in text
    marks = ("DATA", "BLOB", "WORKER", "STYLE", "SCRIPT")
    assert not any(f"/*{mark}*/" in text for mark in marks)


def test_no_text_can_end_the_data(tokenizer, tmp_path):
    """Neither the model's name nor the prompt, and a mark of the template in them stays text."""
    model = random_model(vocab_size=tokenizer.vocab_size, n_layer=2)
    text = TokenDataset.from_texts(["A dog ran. It was fun."] * 2, tokenizer)
    measured = page.measure(model, tokenizer, text)
    about = {"model": HOSTILE + "/*BLOB*/", "text": HOSTILE, "prompt": HOSTILE, "off": ""}
    page.write_page(tmp_path / "p.html", model, tokenizer, measured, about)
    whole = (tmp_path / "p.html").read_text()
    found = data_of(tmp_path / "p.html")["about"]
    assert found["model"] == HOSTILE + "/*BLOB*/" and found["prompt"] == HOSTILE
    assert "<" not in whole.split('id="data">')[1].split("</script>")[0]
    assert whole.count("</script>") == 4


def test_the_table_of_heads_is_sorted_by_the_effect_of_ablation(run_script, tiny_run):
    done = run_script("eval.py", "--model", tiny_run, "--inspect", "--out", "a.html")
    rows = [line.split() for line in done.out.splitlines()[1:5]]
    assert sorted(row[0] for row in rows) == ["0.0", "0.1", "0.2", "0.3"]
    increases = [float(row[-1]) for row in rows]
    assert increases == sorted(increases, reverse=True)
    assert data_of(Path("a.html"))["about"]["prompt"] == "Once upon a time"


@NO_BROWSER
def test_in_a_browser_the_model_writes_the_text_of_python(opened, tiny_run):
    here = opened("plain")
    model, tokenizer = load(str(tiny_run))
    here.run("$('temperature').value = 0; $('count').value = 30")
    here.run("usePrompt().then(() => generate())", wait=True)
    prompt = tokenizer.prompt_ids(PROMPT)
    (expected,) = Sampler(model, tokenizer).generate_ids(
        [prompt], max_new_tokens=30, temperature=0.0
    )
    made = here.run("state.ids.slice(state.given)")
    assert [token for token in made if token != tokenizer.eot_id] == expected
    shown = here.run(
        "[...text.children].slice(0, state.given).map((each) => each.textContent).join('')"
    )
    assert shown == PROMPT and here.errors == []


@NO_BROWSER
def test_in_a_browser_a_word_has_its_account_and_switches_act_at_once(opened, tiny_run):
    here = opened("plain")
    model, tokenizer = load(str(tiny_run))
    account_is(here, 5)
    ids, rival = (
        here.run("state.ids"),
        here.run("Number((document.querySelector('.chips [aria-pressed=true]') && 1))"),
    )
    expected = attribute(model, ids, 4, [ids[5]])
    p = model(torch.tensor([ids[:5]]))[0, -1].softmax(-1)[ids[5]].item()
    shown = here.run("$('account').textContent")
    assert rival == 1 and abs(float(here.run("$('account').dataset.remainder"))) < 1e-3
    assert "direct path" in shown and "remainder" in shown and "Words that it read" in shown
    found = here.run("""(async () => (await request("account", { ids: state.ids, switches: [], t: 5,
        target: state.ids[5], rival: "none" })))()""", wait=True)  # fmt: skip
    assert found["p"] == pytest.approx(p, rel=1e-3)
    assert found["value"] == pytest.approx(expected.logits[0].item(), abs=1e-3)
    here.run("[...document.querySelectorAll('#account .part button')].find((each) => "
             "each.getAttribute('aria-label').startsWith('switch head')).click()")  # fmt: skip
    wait_for(here, "$('account').textContent.includes('With all heads and neurons on')")
    assert here.run("state.off.length") == 1 and not here.run("$('off').hidden")
    here.run("again()", wait=True)
    assert here.run("document.querySelectorAll('#compare .side').length") == 2
    assert here.errors == []


@NO_BROWSER
def test_in_a_browser_a_link_keeps_text_and_switches(opened):
    here = opened("plain")
    here.run("state.off = ['head:0.1']; void switched(); void select(4); $('link').click()")
    wait_for(here, "location.hash.length > 20")
    ids, link = here.run("state.ids"), here.run("location.hash")
    again = opened("plain", link)
    assert again.run("state.ids") == ids and again.run("state.at") == 4
    assert again.run("state.off") == ["head:0.1"] and again.errors == []
    for wrong in ("#ids=zz&at=1", "#foo"):
        broken = opened("plain", wrong)
        assert "link cannot be used" in broken.run("$('note').textContent") and broken.errors == []
    saved = broken.run("JSON.stringify(saved())")
    here.run(f"restore(JSON.parse({json.dumps(saved)}))", wait=True)  # as of a file that is opened
    assert here.run("state.ids") == broken.run("state.ids") and here.errors == []


@NO_BROWSER
def test_in_a_browser_early_tokens_and_hasty_visitors_are_served(opened):
    here = opened("plain")
    for token in (0, 1, 2, 1):  # the first has nothing before it, the second no other word to hide
        here.run(f"select({token})", wait=True)
    assert "None of them matters here" in here.run("$('account').textContent")
    script = """(async () => {
        $('prompt').value = 'Max ran';
        $('prompt').dispatchEvent(new Event('input'));
        const first = continueText(1), second = continueText(1);  // before the prompt was read
        await first;
        await second;
        $('count').value = '-3';
        $('temperature').value = '';
        settings();
        await new Promise((resolve) => setTimeout(resolve, 300));
        return [state.tokens.slice(0, state.given).map((each) => each.text).join(''),
            state.tokens.length - state.given, $('count').value, $('temperature').value];
    })()"""
    assert here.run(script, wait=True) == ["Max ran", 1, "200", "0.7"]
    assert here.errors == []


@NO_BROWSER
def test_in_a_browser_no_script_of_a_text_runs(opened):
    """In prompt and story, on a phone in the dark; and odd prompts are shown as they are."""
    here = opened("hostile", width=400, height=800, dark=True)
    for prompt in (HOSTILE, "“Ja” 🐶🐶 中文字符\t\u0301x", "a" * 2000, "\ud800 half"):
        here.run(f"$('prompt').value = {json.dumps(prompt)}; usePrompt()", wait=True)
        shown = here.run("state.tokens.map((each) => each.text).join('')")
        if prompt == HOSTILE:
            assert shown == prompt and here.run("text.textContent") == prompt
    assert here.run("window.broken === undefined")
    assert here.run("document.documentElement.scrollWidth") <= 400  # no horizontal scrolling
    light, dark = "rgb(251, 250, 247)", "rgb(20, 23, 27)"
    assert here.run("getComputedStyle(document.body).backgroundColor") == dark != light
    assert here.errors == []


@NO_BROWSER
def test_in_a_browser_keys_select_and_the_search_finds(opened):
    here = opened("plain")
    here.run("text.focus(); void select(3)")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        here.key(key)
    assert here.run("state.at") == 4 and here.run("text.children[4].classList.contains('at')")
    assert here.run("text.getAttribute('aria-activedescendant')") == "t4"
    type_in(here, "0.1")
    wait_for(here, "document.querySelectorAll('.neuron').length === 1")
    assert here.run("document.querySelector('.neuron b').textContent") == "neuron 1"
    type_in(here, "zzzz")
    wait_for(here, "document.querySelectorAll('.neuron').length === 0")
    here.run("document.querySelector('.term').focus()")
    assert here.run("!$('tip').hidden && $('tip').textContent.length > 20")
    controls = "[...document.querySelectorAll('button, input, textarea')]"
    name = "each.textContent || each.labels?.length || each.ariaLabel"
    unnamed = here.run(f"{controls}.filter((each) => !({name})).length")
    assert unnamed == 0 and here.errors == []


def type_in(here, text):
    here.run(f"$('search').value = '{text}'; $('search').dispatchEvent(new Event('input'))")


def test_inspect_and_off_refuse_what_they_cannot_do(run_script, tiny_run):
    for flags, words in (
        (["--inspect", "A dog", "--off", "head:7.1"], "the model has blocks 0 to 0"),
        (["--off", "x"], "--off takes"),
        (["--off", "head:0.1", "--dtype", "int8"], "int8"),
        (["--inspect", "--out", "."], "cannot write"),
    ):
        done = run_script("eval.py", "--model", tiny_run, *flags)
        assert done.code == 2 and words in done.err and "Traceback" not in done.err


def test_off_compares_loss_and_text(run_script, tiny_run):
    done = run_script("eval.py", "--model", tiny_run, "--off", "head:0.1,neuron:0.2")
    assert done.code == 0 and "ablated head:0.1,neuron:0.2:" in done.out
    assert "  model:   " in done.out and "  ablated: " in done.out
