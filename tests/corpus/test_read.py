"""Files of text and parquet: which stories are read, what is refused, and the content's hash."""

import json
import os
import sys
import time

import pytest
from corpus.texts import STORIES, in_file, make_story

from minislm.corpus import prepare, read
from minislm.corpus.clean import Counts
from minislm.corpus.read import (
    fingerprint,
    read_batches,
    read_stories,
    source_files,
    validation_files,
)
from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT


@pytest.mark.parametrize(
    "separator",
    [f"\n{END_OF_TEXT}\n", f" {END_OF_TEXT}\n", f"\n{END_OF_TEXT}\n\n", f"{END_OF_TEXT}",
     f"\r\n{END_OF_TEXT}\r\n", f"\n{END_OF_TEXT}\n{END_OF_TEXT}\n"],
)  # fmt: skip
def test_separators_anywhere_in_a_line(tmp_path, separator):
    path = in_file(tmp_path / "a.txt", separator=separator)
    assert [story.strip() for story in read_stories(path)] == STORIES


@pytest.mark.parametrize("block", [1, 2, 7, 13, 64, 1000])
def test_block_borders_change_nothing(tmp_path, monkeypatch, block):
    monkeypatch.setattr(read, "BLOCK", block)
    stories = [story + " caf\u00e9 \U0001f600" for story in STORIES[:3]]
    path = in_file(tmp_path / "a.txt", stories)
    assert [story.strip() for story in read_stories(path)] == stories


def test_a_file_without_separator_is_one_document(tmp_path):
    text = "First Citizen:\nSpeak.\n\nAll:\nSpeak, speak.\n\nFirst Citizen:\nYou are resolved?\n"
    (tmp_path / "input.txt").write_text(text)
    assert list(read_stories(tmp_path / "input.txt")) == [text]


def test_the_last_story_needs_no_separator_and_folders_are_sorted(tmp_path):
    (tmp_path / "b.txt").write_text(f"three{END_OF_TEXT}four")
    (tmp_path / "a.txt").write_text(f"one{END_OF_TEXT}two")
    (tmp_path / "notes.md").write_text("not read")
    assert list(read_stories(tmp_path)) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("block", [37, 5000])
def test_a_long_text_is_cut_at_white_space(tmp_path, monkeypatch, block):
    monkeypatch.setattr(read, "MAX_STORY", 100)
    monkeypatch.setattr(read, "BLOCK", block)
    words = " ".join(f"w{i}" for i in range(200))
    line = "x" * 450  # no white space at all
    text = f"{words}{END_OF_TEXT}{line}{END_OF_TEXT}a\n{'b' * 60}\n\n{'c ' * 40}"
    (tmp_path / "a.txt").write_text(text)
    counts = Counts()
    parts = list(read_stories(tmp_path / "a.txt", counts))
    assert "".join(parts) == text.replace(END_OF_TEXT, "")
    assert max(map(len, parts)) <= 100
    assert [w for p in parts if "w" in p for w in p.split()] == words.split()
    assert parts[-1] == "\n\n" + "c " * 40  # the blank line is preferred to the later spaces
    assert counts["changed: long text cut"] == len(parts) - 3


def test_a_story_comes_before_the_whole_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_STORY", 100)
    monkeypatch.setattr(read, "BLOCK", 50)
    monkeypatch.setattr(read, "BATCH", 200)
    (tmp_path / "a.txt").write_bytes(b"x" * 500 + b"\0")
    stories = read_stories(tmp_path / "a.txt")
    assert next(stories) == "x" * 100
    with pytest.raises(UserError, match="offset 500"):
        list(stories)


def test_a_batch_has_the_stories_of_many_blocks_and_of_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 100)
    monkeypatch.setattr(read, "BATCH", 1000)
    for number, story in enumerate(STORIES):
        (tmp_path / f"{number:02d}.txt").write_text(story)
    batches = list(read_batches(tmp_path, Counts()))
    assert [story for batch in batches for story in batch] == STORIES
    assert all(1000 <= len("".join(batch)) < 1500 for batch in batches[:-1]) and len(batches) > 2
    monkeypatch.setattr(read, "BATCH", 1 << 21)
    assert list(read_batches(tmp_path, Counts())) == [STORIES]


def test_a_separator_in_the_middle_of_a_cut_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_STORY", 100)
    monkeypatch.setattr(read, "BLOCK", 1)
    for length in range(80, 120):
        (tmp_path / "a.txt").write_text("x" * length + END_OF_TEXT + "y" * 20)
        parts = list(read_stories(tmp_path / "a.txt"))
        assert "".join(parts) == "x" * length + "y" * 20 and parts[-1] == "y" * 20


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (b" \n<|endoftext|>\n\n<|endoftext|> ", "no story"),
        (b"abc\0def", "NUL byte at offset 3"),
        ("caf\u00e9 ".encode() + b"caf\xe9 au lait", "byte 0xe9 at offset 9"),
        (b"abcdefghi \xe2\x82", "byte 0xe2 at offset 10"),
        ("\u00e9\u00e9".encode() + b"\0", "NUL byte at offset 4"),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_files_that_are_no_text(tmp_path, monkeypatch, data, message, block):
    monkeypatch.setattr(read, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        list(read_stories(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("\ufeffOnce upon a time".encode(encoding))
    with pytest.raises(UserError, match="a.txt is UTF-16; convert it, .*iconv -f UTF-16"):
        list(read_stories(tmp_path / "a.txt"))


def test_missing_files_and_folders_without_text(tmp_path):
    for name in ("nowhere.txt", "*.txt", "a" * 5000):
        with pytest.raises(UserError, match="no file or folder"):
            list(read_stories(tmp_path / name))
    with pytest.raises(UserError, match=r"no \*.txt file"):
        list(read_stories(tmp_path))
    with pytest.raises(UserError, match="not a regular file"):
        list(read_stories("/dev/null"))


# --- Folders --------------------------------------------------------------------------------------


def test_hidden_files_are_left_out_and_suffixes_have_any_case(tmp_path):
    in_file(tmp_path / "A.TXT", STORIES[:2])
    (tmp_path / "._A.TXT").write_bytes(b"\0\5\x16\7 of another system")
    (tmp_path / ".hidden.txt").write_text("left by an editor")
    (tmp_path / "b.Jsonl").write_text(json.dumps({"text": STORIES[2]}))
    for source in (tmp_path, tmp_path / "*"):
        assert [story.strip() for story in read_stories(source)] == STORIES[:3]
    assert list(read_stories(tmp_path / ".hidden.txt")) == ["left by an editor"]


@pytest.mark.parametrize(
    "names, training, validation",
    [
        (["train.txt", "valid.txt"], ["train.txt"], ["valid.txt"]),
        (["TinyStories-Train.txt", "TinyStories-VALID.txt"], ["TinyStories-Train.txt"],
         ["TinyStories-VALID.txt"]),
        (["a.txt", "val_1.txt", "val_2.txt"], ["a.txt"], ["val_1.txt", "val_2.txt"]),
        (["test-0.txt", "train-0.txt", "train-1.txt", "validation-0.txt"],
         ["train-0.txt", "train-1.txt"], ["validation-0.txt"]),
        (["books.txt", "test.txt"], ["books.txt"], ["test.txt"]),
        (["valley.txt", "contest.txt"], ["contest.txt", "valley.txt"], None),
        (["valid.txt"], ["valid.txt"], None),
    ],
)  # fmt: skip
def test_validation_files_of_a_folder_are_known_by_name(tmp_path, names, training, validation):
    for name in names:
        (tmp_path / name).write_text("text")
    for source in (tmp_path, tmp_path / "*.txt"):
        assert [file.name for file in source_files(source)] == training
        pattern = validation_files(source)
        found = pattern and [file.name for file in source_files(pattern)]
        assert found == validation
    assert validation_files(tmp_path / names[0]) is None


# --- Tables: .jsonl and .csv ----------------------------------------------------------------------


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "lines, stories",
    [
        ('{"text": "One.", "source": "x", "n": 3}\n{"n": 4, "text": "Two."}\n', ["One.", "Two."]),
        ('{"story": "One.", "n": 3, "id": "17"}\r\n\r\n{"story": "Two."}', ["One.", "Two."]),
        ('\ufeff{"text": "One.\\nTwo.\u2028Three\\u00e9"}\n', ["One.\nTwo.\u2028Three\u00e9"]),
        ('{"text": null, "title": "x"}\n{"text": ""}\n{"text": "One."}\n{"n": 1}', ["One."]),
        ('{"text": "One.<|endoftext|>Two."}\n', ["One.", "Two."]),
    ],
)
def test_a_line_of_jsonl_is_a_story(tmp_path, lines, stories):
    assert list(read_stories(written(tmp_path / "a.jsonl", lines))) == stories


@pytest.mark.parametrize(
    "rows, stories",
    [
        ('id,text,n\n1,"One, ""two"".\nThree.",3\n2,Four.,4\n', ['One, "two".\nThree.', "Four."]),
        ("\ufeffid;story\r\n1;One, two.\r\n2;Three.\r\n", ["One, two.", "Three."]),
        ("story\nOne.\n\nTwo.\n", ["One.", "Two."]),
        ("text,score\n,1\nOne.,2\n", ["One."]),
    ],
)
def test_a_row_of_csv_is_a_story(tmp_path, rows, stories):
    assert list(read_stories(written(tmp_path / "a.csv", rows))) == stories


def test_long_texts_and_many_rows_of_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BATCH", 1000)
    long = "word " * 40_000  # longer than a field of csv may be by default
    rows = [long, *(make_story(n, 10) for n in range(50))]
    written(tmp_path / "a.csv", "text\n" + "".join(f'"{row}"\n' for row in rows))
    written(tmp_path / "b.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows))
    for name in ("a.csv", "b.jsonl"):
        batches = list(read_batches(tmp_path / name, Counts()))
        assert "".join(story for batch in batches for story in batch) == "".join(rows)
        assert all(len("".join(batch)) >= 1000 for batch in batches[:-1]) and len(batches) > 3


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.jsonl", '{"text": "One."}\n{"text": "Two."', "row 2 cannot be read"),
        ("a.jsonl", '["One."]\n', "row 1 cannot be read .*without a name"),
        ("a.jsonl", '{"text": 5}\n', "row 1 cannot be read"),
        ("a.jsonl", "[" * 100_000, "row 1 cannot be read"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "row 1 cannot be read .*0xe9"),
        ("a.jsonl", '{"title": "One.", "body": "Two."}', 'no column "text", but title, body'),
        ("a.csv", "title,body\nOne.,Two.\n", 'no column "text", but title, body'),
        ("a.csv", "text,n\nOne.,1\nTwo, three.,2\n", "row 2 cannot be read .*without a name"),
        ("a.csv", 'text\nOne.\n"Two.\n', "row 2 cannot be read"),
        ("a.csv", "text\n", "holds no story"),
        ("a.json", '[{"text": "One."}]', "a.json is not read: give .txt, .jsonl, .csv, .parquet"),
        ("a.md", "One.", "a.md is not read: give .txt"),
        ("a.txt.gz", b"\x1f\x8b", "a.txt.gz is not read: give .txt"),
        ("a.txt", '{"text": "One."}\n', "a.txt is JSON; .*jsonl"),
        ("a.txt", '\ufeff [ {"text" : "On\\"e."}]', "a.txt is JSON; .*jsonl"),
        ("a", '["One.", "Two."]', "a is JSON; .*jsonl"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_and_files_that_are_not(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words) as error:
        list(read_stories(written(tmp_path / name, content)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ['["Run!" she cried.', '{Lily: "Hi."}', "[1] One.", '"One."', "{}"]
)
def test_brackets_alone_are_no_json(tmp_path, text):
    assert list(read_stories(written(tmp_path / "notes", text))) == [text]


def test_half_of_a_surrogate_pair_in_json_is_removed(tmp_path, tokenizer):
    path = written(tmp_path / "a.jsonl", json.dumps({"text": STORIES[0] + "\ud83d"}))
    made = prepare.prepare(path, tokenizer, tmp_path / "cache")
    assert tokenizer.decode(made.document(0)[:-1].tolist()) == STORIES[0]


# --- Parquet --------------------------------------------------------------------------------------


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def test_a_row_of_a_parquet_file_is_a_story(tmp_path):
    rows = [*STORIES, None, f"two{END_OF_TEXT}in one", ""]
    path = write_parquet(tmp_path / "a.parquet", id=list(range(len(rows))), text=rows)
    assert list(read_stories(path)) == [*STORIES, "two", "in one"]
    other = write_parquet(tmp_path / "b.parquet", story=STORIES[:2])  # the only text there is
    assert list(read_stories(other)) == STORIES[:2]
    in_file(tmp_path / "c.txt", STORIES[:1])
    assert len(list(read_stories(tmp_path))) == len(STORIES) + 5
    assert len(list(read_stories(tmp_path / "[ab].parquet"))) == len(STORIES) + 4


def test_the_column_called_text_is_preferred(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", title=STORIES[:2], text=STORIES[2:4])
    assert list(read_stories(path)) == STORIES[2:4]


@pytest.mark.parametrize("kind", ["dictionary", "string_view", "large_string"])
def test_every_type_of_text_column(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    text = pyarrow.array([*STORIES, None])
    if kind != "dictionary" and not hasattr(pyarrow, kind):
        pytest.skip("not in this version of pyarrow")
    text = text.dictionary_encode() if kind == "dictionary" else text.cast(getattr(pyarrow, kind)())
    path = write_parquet(tmp_path / "a.parquet", n=list(range(13)), story=text)
    assert str(pyarrow.parquet.read_schema(path).field("story").type) == str(text.type)
    assert list(read_stories(path)) == STORIES
    lists = write_parquet(tmp_path / "b.parquet", story=[[story] for story in STORIES])
    with pytest.raises(UserError, match='no column "text", but story'):
        list(read_stories(lists))


def test_parquet_files_that_cannot_be_read(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", title=STORIES, body=STORIES, n=[1] * 12)
    with pytest.raises(UserError, match='no column "text", but title, body, n'):
        list(read_stories(path))
    path = write_parquet(tmp_path / "a.parquet", text=STORIES)
    data = path.read_bytes()
    for damaged in (data[:-9], data[: len(data) // 2], b"PAR1", bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged or no parquet") as error:
            list(read_stories(path))
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        list(read_stories(path))


# --- The hash of the content ----------------------------------------------------------------------


def test_a_hash_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 100)
    path, cache, nowhere = in_file(tmp_path / "a.txt"), tmp_path / "cache", tmp_path / "no"
    hashes = cache / "hashes.txt"
    fresh = fingerprint(path, cache)
    assert not hashes.exists()  # written just now: it may change again unseen
    clock = time.time()
    monkeypatch.setattr(read.time, "time", lambda: clock + 10)
    assert fingerprint(path, cache) == fresh and hashes.exists()
    with monkeypatch.context() as patch:
        patch.setattr(read, "_blocks", lambda *_: pytest.fail("read again"))
        assert fingerprint(path, cache) == fresh
    times = path.stat()
    path.write_text(path.read_text().replace("cat", "dog"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as old and as long as before
    changed = fingerprint(path, cache)
    assert changed == fingerprint(path, nowhere) != fresh
    known = hashes.read_text()
    for damage in ("", "[]\n", known[70:], known.replace("\n", "x\n"), "x" + known, "\xff\0"):
        hashes.write_text(damage)
        assert fingerprint(path, cache) == changed


def test_the_order_and_the_borders_of_files_are_part_of_the_hash(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    first = fingerprint(tmp_path, tmp_path.parent / "cache")
    (tmp_path / "a.txt").write_text("two")
    (tmp_path / "b.txt").write_text("one")
    assert fingerprint(tmp_path, tmp_path.parent / "cache") != first
    (tmp_path / "a.txt").write_text("on")
    (tmp_path / "b.txt").write_text("etwo")
    assert fingerprint(tmp_path, tmp_path.parent / "cache") != first


def test_the_kind_of_a_file_is_part_of_the_hash(tmp_path):
    kinds = ["a.txt", "a.csv", "a.jsonl"]
    prints = {fingerprint(in_file(tmp_path / name), tmp_path / "cache") for name in kinds}
    assert len(prints) == 3
    assert fingerprint(in_file(tmp_path / "B.TXT"), tmp_path / "cache") in prints
