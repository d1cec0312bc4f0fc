"""Tables and JSON entries."""

from minislm.evaluation import TaskScore, TextLoss
from minislm.reporting.tables import columns, markdown_table, model_entry, task_table

SCORES = {
    "copy": TaskScore(train=(70, 70), test=(15, 30)),
    "unary": TaskScore(train=(1, 10), test=(0, 0), too_long=(7, 8, 9)),
    "words": TaskScore(train=(0, 0), test=(0, 0), too_long=(1,)),
}


def test_a_markdown_table():
    table = markdown_table(("model", "loss"), [("a", "1.5"), ("b", "2")])
    assert table == "| model | loss |\n| --- | --- |\n| a | 1.5 |\n| b | 2 |\n"


def test_exact_match_as_a_table():
    head, copy, unary, words, total = task_table(SCORES).splitlines()
    assert head.split() == ["exact", "match", "D_train", "D_test"]
    assert copy.split() == ["copy", "100%", "of", "70", "50%", "of", "30"]
    cells = f"{'unary':<14}{'10% of 10':>16}{'-':>16}"
    assert unary == cells + "   too long: 3, from i = 7"
    assert words.split()[:3] == ["words", "-", "-"] and words.endswith("too long: 1, from i = 1")
    assert total.split() == ["all", "89%", "of", "80", "50%", "of", "30"]


def test_one_task_has_no_total():
    assert len(task_table({"copy": SCORES["copy"]}).splitlines()) == 2


def test_the_entry_of_a_model_has_no_key_for_what_was_not_measured():
    assert model_entry(12, None, None) == {"parameters": 12}
    loss = TextLoss(nats=100.0, tokens=50, bytes=200)
    entry = model_entry(12, loss, SCORES)
    assert entry["tasks"] == {"copy": {"train": 1.0, "test": 0.5}, "unary": {"train": 0.1},
                              "words": {}}  # fmt: skip
    assert entry["nats_per_token"] == 2.0 and entry["perplexity"] == loss.perplexity
    assert entry["bits_per_byte"] == loss.bits_per_byte


def test_continuations_stand_side_by_side():
    texts = [("one", "A dog\n\nran.  It " + "was fast " * 12), ("runs/" + "x" * 60, "Short.")]
    first, names, rules, *body = columns("Once", texts).splitlines()
    assert first == '"Once" ...'
    assert names.startswith("one" + " " * 43) and names.endswith("  " + "x" * 44)
    assert rules.split() == ["---", "-" * 44]
    assert body[0].startswith("A dog ran. It was") and body[0].endswith("  Short.")
    assert len(body) > 2 and all(len(line) <= 2 * 44 + 2 for line in body)
    left = " ".join(line[:44].strip() for line in body)
    assert left == " ".join(texts[0][1].split())
