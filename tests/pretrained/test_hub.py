"""The hub module against a small server on this machine."""

from __future__ import annotations

import glob
import json
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import ROOT, TINY
from pretrained.hub_server import (
    NEW,
    WEIGHTS,
    Handler,
    Hub,
    contents,
    environment,
    request,
    start,
)

from minislm.pretrained.hub import find_text

MODEL = "roneneldan/TinyStories-33M"
OLD = "a" * 40  # a commit


def model_files(**more: bytes) -> dict[str, bytes]:
    """A repository with both weight formats and many files that are not needed."""
    files = {
        "config.json": b'{"model_type": "gpt_neo"}',
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"tokenizer": 1}',
        "tokenizer_config.json": b'{"a": 1}',
        "vocab.json": b'{"b": 2}',
        "merges.txt": b"#version: 0.2\n",
        "special_tokens_map.json": b'{"c": 3}',
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"pickled",
        "tf_model.h5": b"tf",
        "flax_model.msgpack": b"flax",
        "model.gguf": b"gguf",
        "onnx/model.onnx": b"onnx",
        "onnx/config.json": b"{ }",
        "optimizer.pt": b"optimizer",
        "training_args.bin": b"arguments",
        "README.md": b"# card",
        ".gitattributes": b"*",
    }
    return files | more


NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "model.safetensors",
}


@pytest.fixture
def hub():
    hub = Hub(repos={MODEL: {NEW: model_files()}})
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield hub
    server.shutdown()
    server.server_close()


def test_only_needed_files_are_fetched_and_only_once(hub, tmp_path):
    [folder] = request(hub, tmp_path, (MODEL, None))
    assert contents(folder) == {name: model_files()[name] for name in NEEDED}
    assert hub.sent() == sorted(NEEDED)
    hub.log.clear()
    assert request(hub, tmp_path, (MODEL, None)) == [folder]
    assert hub.sent() == []


def test_the_cache_answers_without_a_network(hub, tmp_path):
    [folder] = request(hub, tmp_path, (MODEL, None))
    hub.log.clear()
    offline = request(hub, tmp_path, (MODEL, None), (MODEL, NEW), (MODEL, "v2"), HF_HUB_OFFLINE="1")
    assert offline[:2] == [folder, folder] and "HF_HUB_OFFLINE" in offline[2]
    assert "v2" in offline[2]
    assert hub.log == []
    hub.endpoint = "http://127.0.0.1:9"  # no one listens there
    again, error = request(hub, tmp_path, (MODEL, None), ("a/b", None))
    assert again == folder
    assert "check the connection" in error and "\n" not in error
    [error] = request(hub, tmp_path / "empty", (MODEL, None), HF_HUB_OFFLINE="1")
    assert MODEL in error and "HF_HUB_OFFLINE" in error and str(tmp_path / "empty") in error


def test_one_format_of_weights(hub, tmp_path):
    shards = {f"model-0000{i}-of-00002.safetensors": b"%d" % i for i in (1, 2)}
    shards["model.safetensors.index.json"] = b"{}"
    pickles = {f"pytorch_model-0000{i}-of-00002.bin": b"%d" % i for i in (1, 2)}
    pickles["pytorch_model.bin.index.json"] = b"{}"
    base = {"config.json": b"{}", "vocab.json": b"{}", "merges.txt": b""}
    wanted = [{"pytorch_model.bin": b"w"}, shards, pickles]
    extra = [{"rust_model.ot": b"r"}, pickles, {"adapter-00001-of-00002.bin": b"a"}]
    for i, (files, others) in enumerate(zip(wanted, extra)):
        hub.repos[f"some/model{i}"] = {NEW: base | files | others}
    folders = request(hub, tmp_path, *((f"some/model{i}", None) for i in range(3)))
    assert [contents(folder) for folder in folders] == [base | files for files in wanted]
    # A cache that lost a shard, and no connection: not half a model.
    (folders[1] / "model-00002-of-00002.safetensors").unlink()
    [error] = request(hub, tmp_path, ("some/model1", None), HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error


def test_a_missing_tokenizer_is_the_one_that_the_card_names(hub, tmp_path):
    bare = {"config.json": b"{}", "pytorch_model.bin": b"w"}
    hub.repos = {
        "roneneldan/TinyStories-1M": {NEW: bare},
        "EleutherAI/gpt-neo-125M": {NEW: model_files()},
        "some/model": {NEW: bare},
    }
    requests = [("roneneldan/TinyStories-1M", None), ("some/model", None)]
    (folder, tokenizer), error = request(hub, tmp_path, *requests)
    assert contents(folder) == bare
    assert set(contents(tokenizer)) == NEEDED - {
        "config.json", "generation_config.json", "model.safetensors"
    }  # fmt: skip
    assert "no tokenizer.json" in error
    assert request(hub, tmp_path, requests[0], HF_HUB_OFFLINE="1") == [(folder, tokenizer)]


def test_a_revision_pins_a_commit(hub, tmp_path):
    hub.repos[MODEL][OLD] = model_files(**{"config.json": b"old"})
    del hub.repos[MODEL][OLD]["model.safetensors"]
    hub.branches["v1"] = OLD
    by_tag, by_commit, newest = request(hub, tmp_path, (MODEL, "v1"), (MODEL, OLD), (MODEL, None))
    assert by_tag == by_commit != newest
    assert (by_tag / "config.json").read_bytes() == b"old"
    assert (by_tag / "pytorch_model.bin").exists()  # the format is that of the revision
    assert (newest / "config.json").read_bytes() == model_files()["config.json"]
    assert hub.sent().count("vocab.json") == 1  # the same bytes are stored once
    del hub.branches["v1"]
    [error] = request(hub, tmp_path, (MODEL, "v1"))
    assert "no revision 'v1'" in error  # a name that the hub removed is not read from the cache


def test_a_dropped_connection_is_resumed(hub, tmp_path):
    # Within a call huggingface_hub 2.4 waits a second and requests by Range what follows the last
    # whole chunk; before 1.0 it gives up here and resumes when run again. Its chunks of 10 MB
    # are made smaller, as the file is.
    small = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1 << 16"
    half = len(WEIGHTS) // 2
    hub.cut = [half]
    [folder] = request(hub, tmp_path, (MODEL, None), before=small)
    if isinstance(folder, str):
        assert "run again" in folder
        [folder] = request(hub, tmp_path, (MODEL, None), before=small)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    sent = [(span, n) for m, p, span, n in hub.log if m == "GET" and p.endswith("safetensors")]
    assert sent == [(None, half), (f"bytes={half}-", half)]


def test_a_killed_download_is_complete_when_run_again(hub, tmp_path):
    # Across processes huggingface_hub 2.4 keeps complete files and downloads an incomplete one
    # again (its temporary name is the process's own); older versions resume it.
    hub.stall = threading.Event()
    process = start(hub, tmp_path, (MODEL, None))
    assert hub.halfway.wait(30)
    process.kill()
    process.communicate()
    hub.stall.set()
    hub.stall = None
    [error] = request(hub, tmp_path, (MODEL, None), HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error
    [folder] = request(hub, tmp_path, (MODEL, None))
    assert contents(folder) == {name: model_files()[name] for name in NEEDED}


def test_mistakes_get_one_line(hub, tmp_path):
    files = model_files()
    hub.repos |= {
        "some/gated": {NEW: files},
        "some/no-config": {NEW: {k: v for k, v in files.items() if k != "config.json"}},
        "some/no-weights": {NEW: {"config.json": b"{}", "tokenizer.json": b"{}", "m.gguf": b""}},
        "some/files-forbidden": {NEW: files},
        "some/adapter": {NEW: {"adapter_config.json": b"{}", "adapter_model.bin": b""}},
        "some/llama.cpp": {NEW: {"m.Q4_0.gguf": b"", "README.md": b""}},
    }
    hub.refuse = {
        "some/private": (401, "RepoNotFound"),
        "some/gated": (403, "GatedRepo"),
        "some/forbidden": (403, "Forbidden"),
        "some/files-forbidden": (403, "FilesForbidden"),
        "some/broken": (500, "Oops"),
    }
    expected = {
        ("not an id", None): "owner/name",
        ("a/b/c", None): "owner/name",
        ("roneneldan/TinyStories-Instruct-1Layer-21M", None): "TinyStories-Instuct-1Layer-21M",
        ("some/private", None): "hf auth login",
        ("some/gated", None): "accept its terms",
        ("some/forbidden", None): "HF_TOKEN",
        ("some/files-forbidden", None): "HF_TOKEN",
        ("some/broken", None): "500",
        (MODEL, "v9"): "no revision 'v9'",
        (MODEL, "c" * 40): "no revision",
        ("some/no-config", None): "config.json",
        ("some/adapter", None): "merge",
        ("some/llama.cpp", None): "m.Q4_0.gguf is for llama.cpp",
        ("some/no-weights", None): "model.safetensors or pytorch_model.bin",
    }
    errors = request(hub, tmp_path, *expected)
    for (repo, _), error, part in zip(expected, errors, expected.values()):
        assert isinstance(error, str) and part in error and "\n" not in error, (repo, error)
        assert repo in error, error
    assert hub.sent() == []  # nothing is downloaded for nothing


def test_a_listed_file_that_the_hub_has_lost(hub, tmp_path):
    hub.lost = {"vocab.json"}
    [error] = request(hub, tmp_path, (MODEL, None))
    assert MODEL in error and "vocab.json" in error and "\n" not in error


FAILING_DISK = """
import errno
import huggingface_hub.file_download
def http_get(*_, **__):
    raise OSError(errno.{}, "words of the system")
huggingface_hub.file_download.http_get = http_get
"""


@pytest.mark.parametrize(
    "code,words",
    [
        ("ENOSPC", "no space for"),
        ("EDQUOT", "no space for"),
        ("EACCES", "cannot write"),
        ("EROFS", "cannot write"),
    ],
)
def test_a_disk_that_cannot_be_written(code, words, hub, tmp_path):
    [error] = request(hub, tmp_path, (MODEL, None), before=FAILING_DISK.format(code))
    assert words in error and str(tmp_path) in error and "HF_HOME" in error


# --- Texts ----------------------------------------------------------------------------------------

TEXTS = "roneneldan/TinyStories"
STORIES = {
    name: f"{name}: once upon a time".encode()
    for name in (
        "TinyStories-train.txt",
        "TinyStories-valid.txt",
        "TinyStoriesV2-GPT4-train.txt",
        "TinyStoriesV2-GPT4-valid.txt",
        "TinyStories_all_data.tar.gz",
        "Evaluation prompts.yaml",
        "README.md",
        "data/train-00000-of-00002-2d5a1467fff1081b.parquet",
        "data/train-00001-of-00002-5852b56a2bd28fd9.parquet",
        "data/validation-00000-of-00001-869c898b519ad725.parquet",
    )
}


@pytest.fixture
def texts(hub):
    hub.repos["datasets/" + TEXTS] = {NEW: STORIES}
    return hub


def request_texts(hub: Hub, cache: Path, *sources: str, **environment: str) -> list:
    """For each source: its files and those of its validation text, by name, or the error."""
    process = start(hub, cache, *((source, "text") for source in sources), **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    answers = map(json.loads, out.splitlines())
    return [a if isinstance(a, str) else tuple(map(files_of, a)) for a in answers]


def files_of(pattern: str | None) -> dict[str, bytes] | None:
    return pattern and {Path(f).name: Path(f).read_bytes() for f in glob.glob(pattern)}


def named(*ends: str) -> dict[str, bytes]:
    return {name.split("/")[-1]: data for name, data in STORIES.items() if name.startswith(ends)}


V2 = named("TinyStoriesV2-GPT4-train"), named("TinyStoriesV2-GPT4-valid")


def test_a_text_and_the_validation_text_of_its_version(texts, tmp_path):
    assert request_texts(texts, tmp_path, TEXTS) == [V2]
    assert texts.sent() == ["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"]
    texts.log.clear()
    parquet = named("data/train"), named("data/validation")
    requests = {
        f"{TEXTS}/TinyStories-train.txt": (named("TinyStories-train"), named("TinyStories-valid")),
        f"{TEXTS}/data/train-*.parquet": parquet,
        f"{TEXTS}@{NEW}/TinyStoriesV2-GPT4-train.txt": V2,
        f"{TEXTS}/TinyStoriesV2-GPT4-valid.txt": (V2[1], None),
        f"{TEXTS}/data/{next(iter(named('data/train')))}": (named("data/train-00000"), parquet[1]),
    }
    assert request_texts(texts, tmp_path, *requests) == list(requests.values())
    assert len(texts.sent()) == 5  # what was there is not sent again
    assert request_texts(texts, tmp_path, *requests, HF_HUB_OFFLINE="1") == list(requests.values())


def test_a_data_set_with_one_training_text_needs_no_file_name(texts, tmp_path):
    text = {"a": b"text"}
    texts.repos |= {
        "datasets/some/text": {NEW: {"train.txt": b"t", "val.txt": b"v", "notes.txt": b"n"}},
        "datasets/some/rows": {NEW: {k: v for k, v in STORIES.items() if "data/" in k}},
        "datasets/some/both": {NEW: {"train.txt": b"t", "data/train.parquet": b"p"} | text},
        "datasets/some/none": {NEW: text},
    }
    names = [f"some/{name}" for name in ("text", "rows", "both", "none")]
    plain, rows, both, none = request_texts(texts, tmp_path, *names)
    assert plain == ({"train.txt": b"t"}, {"val.txt": b"v"})
    assert rows == (named("data/train"), named("data/validation"))
    assert "some/both/FILE" in both and "data/train.parquet, train.txt" in both
    assert "no .txt or .parquet" in none
    again = request_texts(texts, tmp_path, *names[:2], HF_HUB_OFFLINE="1")
    assert again == [plain, rows]


def test_an_incomplete_data_set_is_an_error(texts, tmp_path):
    texts.lost = {"TinyStoriesV2-GPT4-valid.txt"}  # the training text comes, then this fails
    [error] = request_texts(texts, tmp_path, TEXTS)
    assert "TinyStoriesV2-GPT4-valid.txt" in error and "\n" not in error
    [error] = request_texts(texts, tmp_path, TEXTS, HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error


def test_mistakes_about_texts_get_one_line(texts, tmp_path):
    texts.refuse = {"datasets/some/private": (401, "RepoNotFound")}
    expected = {
        "some/private": "no dataset some/private",
        f"{TEXTS}@v9": "no revision 'v9'",
        f"{TEXTS}/TinyStories-V2.txt": "has no TinyStories-V2.txt",
    }
    for source, error in zip(expected, request_texts(texts, tmp_path, *expected)):
        assert expected[source] in error and "\n" not in error
        assert f"there is no {source} here" in error
    assert "TinyStoriesV2-GPT4-train.txt" in error and "data/train-*.parquet" in error
    assert texts.sent() == []


def test_local_files_are_not_requested_from_the_hub(hub, tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    here = ["a.txt", "texts", "texts/typo.txt", "new/typo.txt", "/no/such.txt", "../a", "texts/p-*"]
    assert [find_text(source) for source in here] == [(source, None) for source in here]
    (tmp_path / "roneneldan" / "TinyStories").mkdir(parents=True)
    assert find_text(TEXTS) == (TEXTS, None)


def test_train_py_learns_from_the_hub(hub, tmp_path, stories):
    train, valid = stories[:60], stories[60:80]
    joined = ["<|endoftext|>\n".join(part).encode() for part in (train, valid)]
    hub.repos["datasets/" + TEXTS] = {NEW: dict(zip(STORIES, joined)) | {
        "TinyStoriesV2-GPT4-train.txt": joined[0], "TinyStoriesV2-GPT4-valid.txt": joined[1]
    }}  # fmt: skip
    command = [*TINY, "--data", TEXTS, "--steps", "2", "--evals", "1", "--samples", "0"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *command], cwd=tmp_path, capture_output=True, text=True,
        env=environment(hub, tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60 stories (roneneldan/TinyStories)" in done.stderr
    assert hub.sent() == ["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"]
    [model] = tmp_path.glob("runs/*/model.safetensors")
    assert model.stat().st_size > 0
