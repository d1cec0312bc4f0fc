"""Token files: what they hold, when they are found again, and preparations that are stopped."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from corpus.texts import STORIES, in_file, make_story
from helpers import ROOT

from minislm.corpus import clean, prepare, read
from minislm.corpus.clean import Counts, clean_stories
from minislm.corpus.prepare import train_tokenizer
from minislm.corpus.read import read_stories
from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(STORIES, 300)


# --- Token files ----------------------------------------------------------------------------------


def test_round_trip(tmp_path, tokenizer):
    stories = [story + " caf\u00e9" for story in STORIES]
    made = prepare.prepare(in_file(tmp_path / "a.txt", stories), tokenizer, tmp_path / "cache")
    assert len(made) == len(stories) and made.n_tokens == made.starts[-1]
    assert made.tokens.dtype == np.dtype("<u2") and isinstance(made.tokens, np.memmap)
    assert made.starts.dtype == made.sizes.dtype == np.int64
    assert made.bytes == sum(len(story.encode()) for story in stories)
    for i, story in enumerate(stories):
        ids = made.document(i).tolist()
        assert ids[-1] == tokenizer.eot_id and tokenizer.decode(ids[:-1]) == story
    assert "stories kept" in made.counts


def test_a_large_vocabulary_takes_four_bytes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 65_537)
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: [65_536])
    made = prepare.prepare(in_file(tmp_path / "a.txt"), tokenizer, tmp_path / "cache")
    assert made.tokens.dtype == np.dtype("<u4") and made.tokens[0] == 65_536


def test_validation_stories_are_kept_out(tmp_path, tokenizer):
    curly = "Lily\u2019s mom\u2019s cat\u2019s hat\u2019s tree\u2019s ball\u2019s two dogs " * 3
    path = in_file(tmp_path / "a.txt", [*STORIES, curly, STORIES[0], STORIES[3]])
    valid = in_file(tmp_path / "valid.txt", ["\ufeff" + STORIES[0] + "  ", curly, "Too short."])
    made = prepare.prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    texts = [tokenizer.decode(made.document(i)[:-1].tolist()) for i in range(len(made))]
    assert texts == STORIES[1:]
    rows = dict(line.rsplit(None, 1) for line in made.counts.splitlines())
    assert rows["  dropped: in the validation set"] == "3"
    assert rows["  dropped: exact duplicate"] == "1" and "  dropped: too short" not in rows
    assert (rows["stories read"], rows["stories kept"]) == ("15", "11")


def test_the_second_time_it_is_found(tmp_path, tokenizer, monkeypatch):
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    first = prepare.prepare(path, tokenizer, cache)
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("tokenized again"))
    moved = path.rename(tmp_path / "renamed.txt")  # the content counts, not the name
    again = prepare.prepare(moved, tokenizer, cache)
    assert again.path == first.path and np.array_equal(again.tokens, first.tokens)
    assert (again.bytes, again.counts) == (first.bytes, first.counts)


def test_another_content_tokenizer_or_exclusion_is_another_entry(tmp_path, tokenizer):
    cache = tmp_path / "cache"
    first = in_file(tmp_path / "a.txt")
    second = in_file(tmp_path / "b.txt", STORIES[1:])
    made = [
        prepare.prepare(first, tokenizer, cache),
        prepare.prepare(second, tokenizer, cache),
        prepare.prepare(first, Tokenizer.train(STORIES, 280), cache),
        prepare.prepare(first, tokenizer, cache, exclude=in_file(tmp_path / "v.txt", STORIES[:2])),
    ]
    assert len({file.path for file in made}) == 4
    assert [len(file) for file in made] == [12, 11, 12, 10]


@pytest.mark.parametrize("name", ["tokens.bin", "index.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "longer", "flipped"])
def test_a_damaged_entry_is_made_again(tmp_path, tokenizer, name, damage):
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    made = prepare.prepare(path, tokenizer, cache)
    good, file = made.tokens.copy(), made.path / name
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    changed = {"empty": b"", "short": data[:-10], "longer": data + data, "flipped": flipped}
    file.unlink()
    if damage != "missing":
        file.write_bytes(changed[damage])
    again = prepare.prepare(path, tokenizer, cache)
    assert np.array_equal(again.tokens, good) and np.array_equal(again.starts, made.starts)
    assert np.array_equal(again.sizes, made.sizes) and again.counts == made.counts


def test_no_story_is_left(tmp_path, tokenizer):
    path = in_file(tmp_path / "a.txt", ["Hi.", "Bye."])
    with pytest.raises(UserError, match="no story is left of .*a.txt.*too short 2") as error:
        prepare.prepare(path, tokenizer, tmp_path / "cache")
    assert "\n" not in str(error.value)
    path = in_file(tmp_path / "b.txt")
    with pytest.raises(UserError, match="in the validation set 12"):
        prepare.prepare(path, tokenizer, tmp_path / "cache", exclude=path)


def test_a_cache_that_cannot_be_written(tmp_path, tokenizer):
    path = in_file(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot write"):
        prepare.prepare(path, tokenizer, path)


def test_progress_goes_to_stderr_of_a_terminal(tmp_path, tokenizer, capsys, monkeypatch):
    path = in_file(tmp_path / "a.txt")
    prepare.prepare(path, tokenizer, tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    prepare.prepare(path, tokenizer, tmp_path / "loud")
    out, err = capsys.readouterr()
    assert out == "" and "12 stories" in err and "100%" in err


def test_a_tokenizer_is_trained_once(tmp_path, monkeypatch):
    path, cache = in_file(tmp_path / "a.txt", STORIES + STORIES[:1] * 50), tmp_path / "cache"
    first = train_tokenizer(path, ["1 + 1"], 300, "single", cache)
    plain = Tokenizer.train([*STORIES, "1 + 1"], 300, "single")
    assert first.backend.to_str() == plain.backend.to_str()
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "train", lambda *_: pytest.fail("trained again"))
        again = train_tokenizer(path, ["1 + 1"], 300, "single", cache)
        assert again.backend.to_str() == plain.backend.to_str()
        assert prepare.prepare(path, again, cache).path == prepare.prepare(path, first, cache).path
    others = [(["1 + 2"], 300, "single"), (["1 + 1"], 290, "single"), (["1 + 1"], 300, "merged")]
    for other in others:
        train_tokenizer(path, *other, cache)
    assert len(list(cache.glob("tokenizer-*"))) == 4
    next(cache.glob("tokenizer-*")).joinpath("tokenizer.json").write_text("{")
    monkeypatch.setattr(prepare, "TOKENIZER_TEXT", 100)
    short = train_tokenizer(path, [], 300, "single", cache)
    assert short.backend.to_str() == Tokenizer.train(STORIES[:1], 300).backend.to_str()


# --- Worker processes -----------------------------------------------------------------------------


@pytest.fixture
def hard_text(tmp_path, monkeypatch):
    """A text of many shards with all that is dropped and changed; and its validation text."""
    monkeypatch.setattr(read, "MAX_STORY", 2000)
    monkeypatch.setattr(read, "BLOCK", 700)
    monkeypatch.setattr(read, "BATCH", 1500)
    curly = ["\u201c" + make_story(50) + "\u201d  caf\u00e9", make_story(51) + "\r\n\n\n\nThe end."]
    long = " ".join(make_story(seed) for seed in range(60, 75))
    more = ["Short.", STORIES[3], *curly, long, STORIES[5] + " ", STORIES[7], make_story(80)]
    path = in_file(tmp_path / "a.txt", STORIES + more)
    return path, in_file(tmp_path / "valid.txt", [STORIES[7], curly[0]])


def test_many_shards_equal_one_pass_in_this_process(tmp_path, tokenizer, hard_text):
    path, valid = hard_text
    counts = Counts()
    stories = list(clean_stories(read_stories(path, counts), counts))
    excluded = set(clean_stories(read_stories(valid), Counts()))
    stories = [story for story in stories if story not in excluded]
    counts.update({"dropped: in the validation set": 3, "dropped: exact duplicate": -1})
    made = prepare.prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    assert [made.document(i).tolist() for i in range(len(made))] == [
        [*ids, tokenizer.eot_id] for ids in tokenizer.encode_batch(stories)
    ]
    assert made.counts == str(counts) and made.bytes == sum(len(s.encode()) for s in stories)
    assert counts["changed: long text cut"] == 2 and counts["dropped: exact duplicate"] == 2
    assert {file.name for file in made.path.iterdir()} == {"tokens.bin", "index.npz", "lock"}


def test_few_batches_are_in_memory_and_one_needs_no_process(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(clean, "MAX_WORKERS", 2)
    stories = [f"{make_story(n)} {END_OF_TEXT} as ordinary text" for n in range(40)]
    taken = []
    batches = (taken.append(story) or [story] for story in stories)
    for number, shard in enumerate(clean.make_shards(batches, tokenizer, tmp_path)):
        ids = tokenizer.encode(stories[number])
        assert shard["tokens"].tolist() == [*ids, tokenizer.eot_id] and tokenizer.eot_id not in ids
        assert len(taken) <= number + 3
    assert len(taken) == 40
    monkeypatch.setattr(clean, "ProcessPoolExecutor", lambda *_: pytest.fail("a pool"))
    assert len(list(clean.make_shards(iter([STORIES]), tokenizer, tmp_path / "none"))) == 1
    assert not (tmp_path / "none").exists()


def test_workers_import_no_torch():
    command = "import sys, minislm.corpus.clean; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_preparation_resumes(tmp_path, tokenizer, monkeypatch, hard_text, stop):
    path, valid = hard_text
    whole = prepare.prepare(path, tokenizer, tmp_path / "whole", exclude=valid)
    with monkeypatch.context() as patch, pytest.raises(stop):
        calls = []

        def interrupted(*args):
            calls.append(args)
            if len(calls) == 15:
                raise stop
            return is_new(*args)

        is_new = clean.is_new
        patch.setattr(clean, "is_new", interrupted)
        prepare.prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    [folder] = [file for file in (tmp_path / "cache").iterdir() if file.is_dir()]
    shards = sorted((folder / "shards-1500").glob("*.npz"))
    assert len(shards) >= 3 and not (folder / "tokens.bin").exists()
    shards[0].write_bytes(shards[0].read_bytes()[:-9])  # not whole: it is made again
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 3] ^= 1
    shards[1].write_bytes(data)
    (folder / ".tokens.bin.123.tmp").write_bytes(b"left by an interrupted run")
    made, save_arrays = {}, clean.save_arrays

    def see_shards(file, arrays):  # before they are removed
        made.update((each, each.stat().st_mtime_ns) for each in shards)
        save_arrays(file, arrays)

    before = {each: each.stat().st_mtime_ns for each in shards}
    monkeypatch.setattr(clean, "save_arrays", see_shards)
    again = prepare.prepare(path, tokenizer, tmp_path / "cache", exclude=valid)
    assert [made[each] != before[each] for each in shards[:3]] == [True, True, False]
    assert np.array_equal(again.tokens, whole.tokens) and np.array_equal(again.starts, whole.starts)
    assert (again.bytes, again.counts) == (whole.bytes, whole.counts)
    assert {file.name for file in folder.iterdir()} == {"tokens.bin", "index.npz", "lock"}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_a_killed_worker_is_one_line(tmp_path, tokenizer, monkeypatch, hard_text):
    path, _ = hard_text
    load_arrays = clean.load_arrays

    def kill_workers(file):
        for pid in children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        return load_arrays(file)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="was killed") as error:
        patch.setattr(prepare, "_open", lambda folder: clean.load_arrays(folder / "index.npz"))
        patch.setattr(clean, "load_arrays", kill_workers)
        prepare.prepare(path, tokenizer, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert "run the same command again, what is finished is kept" in str(error.value)
    assert list((tmp_path / "cache").rglob("*.npz"))
    assert len(prepare.prepare(path, tokenizer, tmp_path / "cache")) > len(STORIES)


def test_a_worker_that_cannot_write_is_one_line(tmp_path, tokenizer):
    (tmp_path / "file").write_text("no folder")
    batches = iter([STORIES[:6], STORIES[6:]])
    with pytest.raises(UserError, match="cannot write .*000000.npz"):
        list(clean.make_shards(batches, tokenizer, tmp_path / "file"))


def test_a_text_that_is_damaged_further_on_leaves_no_shards(tmp_path, tokenizer, hard_text):
    folder = tmp_path / "texts"
    folder.mkdir()
    hard_text[0].rename(folder / "a.txt")
    (folder / "b.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="b.txt is not UTF-8"):
        prepare.prepare(folder, tokenizer, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npz"))


# --- Several processes ----------------------------------------------------------------------------


PREPARING = """
import sys
from minislm.corpus import prepare, read
from minislm.tokenizer import Tokenizer
read.BLOCK, read.BATCH = 10_000, 20_000
if {guard}:
    print(len(prepare.prepare(sys.argv[1], Tokenizer.load(sys.argv[2]), sys.argv[3])))
"""


def children(pid: int) -> list[int]:
    """The workers of a process (multiprocessing starts its resource tracker, too)."""
    found = []
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        for child in file.read().split():
            with open(f"/proc/{child}/cmdline") as command:
                found += [int(child)] * ("spawn_main" in command.read())
    return found


def ignores_ctrl_c(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        [ignored] = [line.split()[1] for line in file if line.startswith("SigIgn")]
    return bool(int(ignored, 16) >> signal.SIGINT - 1 & 1)


@pytest.fixture
def start_script(tmp_path, tokenizer, monkeypatch):
    """A function that starts the preparation of a.txt, of 700 stories, in another process."""
    monkeypatch.setattr(read, "BLOCK", 10_000)
    monkeypatch.setattr(read, "BATCH", 20_000)
    path = in_file(tmp_path / "a.txt", [make_story(seed, 300) for seed in range(700)])
    tokenizer.save(tmp_path / "tokenizer")
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

    def start(guard: str = "__name__ == '__main__'") -> subprocess.Popen:
        (tmp_path / "script.py").write_text(PREPARING.format(guard=guard))
        command = [sys.executable, "script.py", path, tmp_path / "tokenizer", tmp_path / "cache"]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=paths, start_new_session=True, **pipes)
        )
        return started[-1]

    started = []
    yield start
    for process in started:  # a failed test leaves nothing running
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside_the_workers_end_and_it_resumes(
    tmp_path, tokenizer, start_script, how
):
    process, cache = start_script(), tmp_path / "cache"
    while len(list(cache.rglob("*.npz"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = children(process.pid)
    assert workers
    while not all(ignores_ctrl_c(pid) for pid in workers):  # one may still be starting
        time.sleep(0.01)
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C is sent to all processes of the terminal
    else:
        process.kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-how, 130, 1)
    if how is signal.SIGINT:
        assert err.count("Traceback") == 1  # the parent's alone
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    [folder] = [each for each in cache.iterdir() if each.is_dir()]
    assert len(list(folder.rglob("*.npz"))) >= 3
    assert len(prepare.prepare(tmp_path / "a.txt", tokenizer, cache)) == 700
    assert {file.name for file in folder.iterdir()} == {"tokens.bin", "index.npz", "lock"}


def test_a_script_without_a_main_guard_ends_with_advice(start_script):
    process = start_script(guard="True")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "must call prepare() under `if __name__" in err


def test_two_processes_at_once_give_the_same(tmp_path, tokenizer, start_script, capsys):
    process, cache = start_script(), tmp_path / "cache"
    while not list(cache.rglob("*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    made = prepare.prepare(tmp_path / "a.txt", tokenizer, cache)
    assert len(made) == 700 and process.communicate(timeout=60) == ("700\n", "")
    assert "waiting for another process" in capsys.readouterr().err
    assert {file.name for file in made.path.iterdir()} == {"tokens.bin", "index.npz", "lock"}


def test_one_makes_it_and_the_others_wait(tmp_path, tokenizer, capsys):
    fcntl = pytest.importorskip("fcntl")
    path, cache = in_file(tmp_path / "a.txt"), tmp_path / "cache"
    folder = prepare.prepare(path, tokenizer, cache).path
    index = (folder / "index.npz").read_bytes()
    (folder / "index.npz").unlink()
    with open(folder / "lock") as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threads.submit(prepare.prepare, path, tokenizer, cache)
        while "waiting for another process" not in capsys.readouterr().err:
            assert not waiting.done()
            time.sleep(0.01)
        (folder / "index.npz").write_bytes(index)  # the other one has made it
        (folder / "tokens.bin").touch()
        changed = (folder / "tokens.bin").stat().st_mtime_ns
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert len(waiting.result(20)) == len(STORIES)
    assert (folder / "tokens.bin").stat().st_mtime_ns == changed
