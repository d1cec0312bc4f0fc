"""Text -> cleaned stories -> token file: what a reader of the tally and of the tokens relies on."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import ROOT

from minislm.corpus import clean as cleaning
from minislm.corpus import prepare as corpus
from minislm.corpus import read as reading
from minislm.corpus import workers
from minislm.corpus.clean import Counts, clean_stories, normalise, signatures
from minislm.corpus.prepare import TokenDataset, learn_tokenizer, prepare
from minislm.corpus.read import fingerprint, read_stories
from minislm.runtime.errors import UserError
from minislm.tokenizer import END_OF_TEXT, Tokenizer

WORDS = "cat dog hat red big ran saw the a with his her tree ball happy sad went park mom".split()


def make_story(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words)) + "."


STORIES = [make_story(seed) for seed in range(12)]


def in_file(path, stories=STORIES, separator=f"\n{END_OF_TEXT}\n"):
    path.write_text(separator.join(stories) + separator, newline="")
    return path


def normal(text: str) -> str:
    return normalise(text, Counts())


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(STORIES, 300)


@pytest.fixture
def no_tokenising(monkeypatch):
    def refuse(self, texts):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(Tokenizer, "encode_batch", refuse)


# ------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "separator",
    [f"\n{END_OF_TEXT}\n", f" {END_OF_TEXT}\n", f"\n{END_OF_TEXT}\n\n", f"{END_OF_TEXT}",
     f"\r\n{END_OF_TEXT}\r\n", f"\n{END_OF_TEXT}\n{END_OF_TEXT}\n"],
)  # fmt: skip
def test_separators_wherever_they_stand(tmp_path, separator):
    path = in_file(tmp_path / "a.txt", separator=separator)
    assert [story.strip() for story in read_stories(path)] == STORIES


@pytest.mark.parametrize("block", [1, 2, 7, 13, 64, 1000])
def test_block_borders_change_nothing(tmp_path, block):
    stories = [story + " caf\u00e9 \U0001f600" for story in STORIES[:3]]
    path = in_file(tmp_path / "a.txt", stories)
    assert [story.strip() for story in read_stories(path, block=block)] == stories


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
    monkeypatch.setattr(reading, "MAX_STORY", 100)
    words = " ".join(f"w{i}" for i in range(200))
    line = "x" * 450  # no white space at all
    text = f"{words}{END_OF_TEXT}{line}{END_OF_TEXT}a\n{'b' * 60}\n\n{'c ' * 40}"
    (tmp_path / "a.txt").write_text(text)
    tally = Counts()
    pieces = list(read_stories(tmp_path / "a.txt", tally, block=block))
    assert "".join(pieces) == text.replace(END_OF_TEXT, "")
    assert max(map(len, pieces)) <= 100
    assert [w for p in pieces if "w" in p for w in p.split()] == words.split()
    assert pieces[-1] == "\n\n" + "c " * 40  # the blank line wins over the later spaces
    assert tally.changed["long text cut"] == len(pieces) - 3


def test_a_story_comes_before_the_whole_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_STORY", 100)
    (tmp_path / "a.txt").write_bytes(b"x" * 500 + b"\0")
    stories = read_stories(tmp_path / "a.txt", block=50)
    assert next(stories) == "x" * 100
    with pytest.raises(UserError, match="offset 500"):
        list(stories)


def test_a_separator_in_the_middle_of_a_cut_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_STORY", 100)
    for length in range(80, 120):
        (tmp_path / "a.txt").write_text("x" * length + END_OF_TEXT + "y" * 20)
        pieces = list(read_stories(tmp_path / "a.txt", block=1))
        assert "".join(pieces) == "x" * length + "y" * 20 and pieces[-1] == "y" * 20


@pytest.mark.parametrize(
    "data, says",
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
def test_files_that_are_no_text(tmp_path, data, says, block):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as error:
        list(read_stories(path, block=block))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_folders_without_text(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        list(read_stories(tmp_path / "nowhere.txt"))
    with pytest.raises(UserError, match=r"no \*.txt file"):
        list(read_stories(tmp_path))
    with pytest.raises(UserError, match="not a regular file"):
        list(read_stories("/dev/null"))


# ----------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_mojibake_is_repaired_to_what_was_written(encoding):
    written = "\u201cIt\u2019s a caf\u00e9,\u201d he said \u2013 na\u00efve\u2014\u2026 \U0001f60a!"
    if encoding == "cp1252":  # browsers and tools pass its five holes through as they are
        spoilt = "".join(
            bytes([b]).decode("latin-1" if b in b"\x81\x8d\x8f\x90\x9d" else "cp1252")
            for b in written.encode()
        )
    else:
        spoilt = written.encode().decode("latin-1")
    clean = '"It\'s a caf\u00e9," he said - na\u00efve-... \U0001f60a!'
    assert normal(spoilt) == normal(written) == clean


@pytest.mark.parametrize(
    "spoilt, repaired",
    [
        ("\u00e2\u20ac\u0153Run!\u00e2\u20ac she said", '"Run!" she said'),  # 9d lost
        ("\u00e2\u20ac\u0153Run!\u00e2\u20ac\ufffd she said", '"Run!" she said'),  # 9d replaced
        ('the end \u00e2\u20ac" almost', "the end - almost"),  # 94 straightened
        ("Lily\u00e2\u20ac\u2122s hat", "Lily's hat"),
        ("two\u00c2\u00a0words", "two words"),
    ],
)
def test_damaged_mojibake(spoilt, repaired):
    tally = Counts()
    assert normalise(spoilt, tally) == repaired
    assert tally.changed["mojibake repaired"] == 1


def test_honest_accents_are_left_alone():
    text = "caf\u00e9 \u00e0 c\u00f4t\u00e9, \u00e2me, ma\u00e7\u00e3, \u65e5\u672c"
    tally = Counts()
    assert normalise(text, tally) == text and not any(tally.changed.values())
    assert normal("\u201eMEN\u00dc\u201c") == '"MEN\u00dc"'


def test_one_spelling_for_every_text():
    assert normal("cafe\u0301") == "caf\u00e9"
    assert normal("\ufeffa\r\nb\rc") == "a\nb\nc"
    assert normal("a  \nb\t\n \n\n\nc\n\n\nd ") == "a\nb\n\nc\n\nd"
    assert normal("\u201ca\u201d \u2018b\u2019 c\u2026") == "\"a\" 'b' c..."
    assert normal("a\x07b\x1b[0m\u200bc\td") == "ab[0mc\td"


def test_cleaning_twice_changes_nothing_more():
    draw = random.Random(0)
    pieces = ["a", " ", "\n", "\r", "\t", "e\u0301", "\u200b", "\u201c", "\xa0", "\x07", "\u2028"]
    for _ in range(500):
        once = normal("".join(draw.choice(pieces) for _ in range(30)))
        assert normal(once) == once


def test_duplicates_are_dropped_and_different_stories_kept():
    words = STORIES[0].split()
    near = " ".join(words[:30] + ["purple"] + words[31:])
    tally = Counts()
    more = [STORIES[3] + "  \n", near, STORIES[5].upper(), "Too short."]
    kept = list(clean_stories(STORIES + more, tally))
    assert kept == STORIES
    assert tally.dropped == {"exact duplicate": 1, "near duplicate": 2, "too short": 1}
    assert tally.read == len(STORIES) + 4 and tally.kept == len(kept)


def test_a_shared_beginning_is_no_duplicate():
    start = "Once upon a time there was a little girl named Lily who lived in a small house. "
    stories = [start + make_story(seed, 40) for seed in range(300)]
    assert list(clean_stories(stories, Counts())) == stories


def test_validation_stories_are_kept_out():
    words = STORIES[1].split()
    valid = ["\u201c" + STORIES[0] + "\u201d  ", " ".join(words[:30] + ["purple"] + words[31:])]
    tally = Counts()
    kept = list(clean_stories(STORIES, tally, signatures(valid)))
    assert kept == STORIES[2:]
    curly = "Lily\u2019s mom\u2019s cat\u2019s hat\u2019s tree\u2019s ball\u2019s " * 3
    assert not list(clean_stories([curly], Counts(), signatures([curly])))
    assert tally.dropped == {"in the validation set": 2}


def test_short_stories():
    ten = "abcdefgh " * 10
    assert len(list(clean_stories([ten.strip()], Counts()))) == 1
    assert not list(clean_stories(["abcdefgh " * 9], Counts()))  # 9 words, 80 characters
    assert not list(clean_stories(["a b c d e f g h i j k"], Counts()))  # 11 words, 21 characters


def test_the_tally_is_a_table():
    tally = Counts(read=1200)
    tally.dropped["too short"] += 200
    tally.changed["line ends"] += 5
    tally.changed["blank lines"] += 0
    assert [line.split() for line in str(tally).splitlines()] == [
        ["stories", "read", "1,200"],
        ["dropped:", "too", "short", "200"],
        ["stories", "kept", "1,000"],
        ["changed:", "line", "ends", "5"],
    ]
    assert len({len(line) for line in str(tally).splitlines()}) == 1


# ------------------------------------------------------------------------------------ parquet


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


# -------------------------------------------------------------------------------- token files


def test_round_trip(tmp_path, tokenizer):
    stories = [story + " caf\u00e9" for story in STORIES]
    made = prepare(in_file(tmp_path / "a.txt", stories), tokenizer, tmp_path / "cache")
    assert len(made) == len(stories) and made.n_tokens == made.starts[-1]
    assert made.tokens.dtype == np.dtype("<u2") and isinstance(made.tokens, np.memmap)
    assert made.bytes == sum(len(story.encode()) for story in stories)
    for i, story in enumerate(stories):
        ids = made.document(i).tolist()
        assert ids[-1] == tokenizer.eot_id and tokenizer.decode(ids[:-1]) == story
    assert "stories kept" in made.tally


def test_a_large_vocabulary_takes_four_bytes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 65_537)
    wide = [[65_536] for _ in STORIES]
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, texts: wide[: len(texts)])
    made = prepare(in_file(tmp_path / "a.txt"), tokenizer, tmp_path / "cache")
    assert made.tokens.dtype == np.dtype("<u4") and made.tokens[0] == 65_536


def test_accents_are_composed_whatever_the_length_of_the_text():
    for before in range(1015, 1030):
        spelt = ["x" * before + word * 300 for word in ("cafe\u0301 ", "caf\xe9 ")]
        assert normal(spelt[0]) == spelt[1].strip()
    marks = "a" + "\u0301" * 50_000 + "\u0323" * 50_000  # sorted at once, these would take 15 s
    assert len(normal(marks)) >= 100_000


def test_many_batches_are_one_file(tmp_path, tokenizer, monkeypatch):
    whole = prepare(in_file(tmp_path / "a.txt"), tokenizer, tmp_path / "one")
    monkeypatch.setattr(corpus, "BATCH", 700)
    parts = prepare(tmp_path / "a.txt", tokenizer, tmp_path / "many")
    assert np.array_equal(whole.tokens, parts.tokens) and np.array_equal(whole.starts, parts.starts)
    assert whole.bytes == parts.bytes


def test_the_second_time_it_is_found(tmp_path, tokenizer, no_tokenising, monkeypatch):
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_batch", lambda self, texts: [[7]] * len(texts))
        first = prepare(path, tokenizer, cache)
    moved = path.rename(tmp_path / "renamed.txt")  # the content counts, not the name
    again = prepare(moved, tokenizer, cache)
    assert again.path == first.path and np.array_equal(again.tokens, first.tokens)
    assert (again.bytes, again.tally) == (first.bytes, first.tally)


def test_another_content_tokenizer_or_exclusion_is_another_entry(tmp_path, tokenizer):
    cache = tmp_path / "cache"
    first = in_file(tmp_path / "a.txt")
    second = in_file(tmp_path / "b.txt", STORIES[1:])
    other = Tokenizer.train(STORIES, 280)
    made = [
        prepare(first, tokenizer, cache),
        prepare(second, tokenizer, cache),
        prepare(first, other, cache),
        prepare(first, tokenizer, cache, exclude=in_file(tmp_path / "v.txt", STORIES[:2])),
    ]
    assert len({file.path for file in made}) == 4
    assert [len(file) for file in made] == [12, 11, 12, 10]
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize("name", ["tokens.bin", "starts.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "short", "longer"])
def test_a_damaged_entry_is_made_again(tmp_path, tokenizer, name, damage):
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    made = prepare(path, tokenizer, cache)
    good = made.tokens.copy()
    file = made.path / name
    data = file.read_bytes()
    changed = {"empty": b"", "short": data[:-10], "longer": data + data}
    file.unlink() if damage == "gone" else file.write_bytes(changed[damage])
    again = prepare(path, tokenizer, cache)
    assert np.array_equal(again.tokens, good) and np.array_equal(again.starts, made.starts)


def test_stories_from_a_function_are_taken_as_they_are(tmp_path, tokenizer):
    made = prepare(lambda: ["1 + 1 = 2", "1 + 1 = 2"], tokenizer, tmp_path, key="sums")
    assert [tokenizer.decode(made.document(i)) for i in range(2)] == ["1 + 1 = 2"] * 2
    assert "stories kept" in made.tally and " 2" in made.tally
    again = prepare(lambda: pytest.fail("asked again"), tokenizer, tmp_path, key="sums")
    assert again.path == made.path
    assert prepare(lambda: ["other"], tokenizer, tmp_path, key="other").path != made.path


def test_nothing_left_to_learn_from(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(f"Hi.{END_OF_TEXT}Bye.")
    with pytest.raises(UserError, match="2 too short"):
        prepare(tmp_path / "a.txt", tokenizer, tmp_path / "cache")
    path = in_file(tmp_path / "b.txt")
    with pytest.raises(UserError, match="12 in the validation set"):
        prepare(path, tokenizer, tmp_path / "cache", exclude=path)


def test_a_cache_that_cannot_be_written(tmp_path, tokenizer):
    path = in_file(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot write"):
        prepare(path, tokenizer, path)


def test_progress_goes_to_stderr_when_asked_for(tmp_path, tokenizer, capsys):
    path = in_file(tmp_path / "a.txt")
    prepare(path, tokenizer, tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    prepare(path, tokenizer, tmp_path / "loud", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "12 stories" in err


def test_token_file_in_memory():
    made = TokenDataset.from_ids([[5, 6, 0], [7, 0]], n_bytes=9)
    assert (len(made), made.n_tokens, made.bytes) == (2, 5, 9)
    assert made.document(1).tolist() == [7, 0]


# ------------------------------------------------------------- many shards, and what stops them


@pytest.fixture
def hard_text(tmp_path, monkeypatch):
    """A text of many shards with all that is dropped and changed; the validation text to it."""
    monkeypatch.setattr(reading, "MAX_STORY", 2000)
    monkeypatch.setattr(corpus, "BATCH", 1500)
    monkeypatch.setattr(workers, "_TOGETHER", 600)
    words = STORIES[0].split()
    near = " ".join(words[:30] + ["purple"] + words[31:])
    curly = ["\u201c" + make_story(50) + "\u201d  caf\u00e9", make_story(51) + "\r\n\n\n\nThe end."]
    long = " ".join(make_story(seed) for seed in range(60, 75))
    more = ["Short.", STORIES[3], near, *curly, long, STORIES[5].upper(), make_story(80)]
    path = in_file(tmp_path / "a.txt", STORIES + more)
    return path, in_file(tmp_path / "valid.txt", [STORIES[7], curly[0]])


def test_shards_make_what_the_plain_way_makes(tmp_path, tokenizer, hard_text):
    path, valid = hard_text
    tally = Counts()
    unwanted = signatures(read_stories(valid))
    stories = list(clean_stories(read_stories(path, tally), tally, unwanted))
    made = prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    assert [made.document(i).tolist() for i in range(len(made))] == [
        [*ids, tokenizer.eot_id] for ids in tokenizer.encode_batch(stories)
    ]
    assert made.tally == str(tally) and made.bytes == sum(len(s.encode()) for s in stories)
    assert tally.dropped.total() == 6 and tally.changed["long text cut"] == 2
    assert not list(made.path.glob("shards*"))


def asked(monkeypatch) -> list[str]:
    """The shards that workers are asked for from now on."""
    files, ask = [], workers.Worker.ask

    def counted(self, file, stories):
        files.append(file.name)
        ask(self, file, stories)

    monkeypatch.setattr(workers.Worker, "ask", counted)
    return files


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_preparation_goes_on(tmp_path, tokenizer, monkeypatch, hard_text, stop):
    path, valid = hard_text
    whole = prepare(path, tokenizer, tmp_path / "whole", exclude=valid)
    with monkeypatch.context() as patch, pytest.raises(stop):
        calls = []

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 15:
                raise stop
            return cleaning.admit(*args)

        patch.setattr(corpus, "admit", interrupted)
        prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    [folder] = [file for file in (tmp_path / "cache").iterdir() if file.is_dir()]
    shards = sorted((folder / "shards-1500").glob("*.npz"))
    assert len(shards) >= 3 and not (folder / "tokens.bin").exists()
    shards[0].write_bytes(shards[0].read_bytes()[:-9])  # not whole: it is made again
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 3] ^= 1
    shards[1].write_bytes(data)
    (folder / ".tokens.bin.123.tmp").write_bytes(b"left by a killed process")
    files = asked(monkeypatch)
    again = prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    assert files[:2] == ["000000.npz", "000001.npz"] and "000002.npz" not in files
    assert np.array_equal(again.tokens, whole.tokens) and np.array_equal(again.starts, whole.starts)
    assert (again.bytes, again.tally) == (whole.bytes, whole.tally)
    left = {file.name for file in folder.iterdir()}
    assert left == {"tokens.bin", "starts.npy", "meta.json", "lock"}


def test_a_killed_worker_is_one_line(tmp_path, tokenizer, monkeypatch, hard_text):
    path, _ = hard_text
    answer = workers.Worker.answer

    def killed(self):
        self.process.kill()
        self.process.wait()
        answer(self)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="killed .SIGKILL") as error:
        patch.setattr(workers.Worker, "answer", killed)
        prepare(path, tokenizer, tmp_path / "cache")
    assert "\n" not in str(error.value) and "run the same command again" in str(error.value)
    assert len(prepare(path, tokenizer, tmp_path / "cache")) > len(STORIES)


def test_a_worker_that_cannot_write_is_one_line(tmp_path, tokenizer, monkeypatch, hard_text):
    path, _ = hard_text
    file = workers.Worker.ask
    block = tmp_path / "file"
    block.write_text("no folder")
    monkeypatch.setattr(workers.Worker, "ask", lambda self, _, s: file(self, block / "a.npz", s))
    with pytest.raises(UserError, match="cannot write .*a.npz"):
        prepare(path, tokenizer, tmp_path / "cache")


def test_a_text_that_turns_out_bad_leaves_no_shards(tmp_path, tokenizer, hard_text):
    folder = tmp_path / "texts"
    folder.mkdir()
    hard_text[0].rename(folder / "a.txt")
    (folder / "b.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="b.txt is not UTF-8"):
        prepare(folder, tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npz"))


PREPARING = """
import sys
from minislm.corpus import prepare as corpus
from minislm.tokenizer import Tokenizer
corpus.BATCH = 20_000
print(len(corpus.prepare(sys.argv[1], Tokenizer.load(sys.argv[2]), sys.argv[3])))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads children from /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside_the_workers_end_and_it_goes_on(tmp_path, tokenizer, how):
    stories = [make_story(seed, 300) for seed in range(700)]
    path, cache = in_file(tmp_path / "a.txt", stories), tmp_path / "cache"
    tokenizer.save(tmp_path / "tokenizer")
    command = [sys.executable, "-c", PREPARING, path, tmp_path / "tokenizer", cache]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    start = dict(cwd=tmp_path, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, **start, start_new_session=True)
    while len(list(cache.rglob("*.npz"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        ours = file.read().split()
    assert ours
    os.killpg(process.pid, how)  # as Ctrl-C does
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-how, 130, 1)
    assert err.count("Traceback") == (how is signal.SIGINT)  # ours alone: a worker says nothing
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in ours) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in ours)
    done = len(list(cache.rglob("*.npz")))
    again = subprocess.run(command, **start)
    assert (again.stdout, again.stderr) == ("700\n", "") and done >= 3
    assert [file.name for file in cache.rglob("*.tmp")] == []


def test_one_makes_it_and_the_others_wait(tmp_path, tokenizer, capsys):
    fcntl = pytest.importorskip("fcntl")
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    folder = prepare(path, tokenizer, cache).path
    meta = (folder / "meta.json").read_bytes()
    (folder / "meta.json").unlink()
    with open(folder / "lock") as held, ThreadPoolExecutor() as threads:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threads.submit(prepare, path, tokenizer, cache)
        while "waiting for another process" not in capsys.readouterr().err:
            assert not waiting.done()
            time.sleep(0.01)
        (folder / "meta.json").write_bytes(meta)  # the other one has made it
        (folder / "tokens.bin").touch()
        changed = (folder / "tokens.bin").stat().st_mtime_ns
        fcntl.flock(held, fcntl.LOCK_UN)
        assert len(waiting.result(20)) == len(STORIES)
    assert (folder / "tokens.bin").stat().st_mtime_ns == changed


# ------------------------------------------------------------------------- the second time around


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 100)
    path, memory = in_file(tmp_path / "a.txt"), tmp_path / "cache" / "hashes.json"
    fresh = fingerprint(path, memory)
    assert not memory.exists()  # written just now: it may change again unseen
    clock = time.time()
    monkeypatch.setattr(reading.time, "time", lambda: clock + 10)
    assert fingerprint(path, memory) == fresh == fingerprint(path) and memory.exists()
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_blocks", lambda *_: pytest.fail("read again"))
        assert fingerprint(path, memory) == fresh
    times = path.stat()
    path.write_text(path.read_text().replace("cat", "dog"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as old and as long as before
    changed = fingerprint(path, memory)
    assert changed == fingerprint(path) != fresh
    for damage in ("", "[]", '{"%s": 3}' % path, '{"%s": [1, 2, 3, "x"]}' % path):
        memory.write_text(damage)
        assert fingerprint(path, memory) == changed


def test_a_tokenizer_is_learned_once(tmp_path, monkeypatch):
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    first = learn_tokenizer(path, ["1 + 1"], 300, "single", cache)
    plain = Tokenizer.train([*map(normal, STORIES), "1 + 1"], 300, "single")
    assert first.backend.to_str() == plain.backend.to_str()
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "train", lambda *_: pytest.fail("learned again"))
        again = learn_tokenizer(path, ["1 + 1"], 300, "single", cache)
        assert again.backend.to_str() == plain.backend.to_str()
        assert prepare(path, again, cache).path == prepare(path, first, cache).path
    others = [(["1 + 2"], 300, "single"), (["1 + 1"], 290, "single"), (["1 + 1"], 300, "merged")]
    for other in others:
        learn_tokenizer(path, *other, cache)
    assert len(list(cache.glob("tokenizer-*"))) == 4
    next(cache.glob("tokenizer-*")).joinpath("tokenizer.json").write_text("{")
    monkeypatch.setattr(corpus, "TOKENIZER_TEXT", 100)
    short = learn_tokenizer(path, [], 300, "single", cache)
    assert short.backend.to_str() == Tokenizer.train(STORIES[:1], 300).backend.to_str()
