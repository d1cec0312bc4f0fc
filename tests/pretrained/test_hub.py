"""The hub room against a small server on this machine that speaks the hub's paths."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers import ROOT, TINY

from minislm.corpus.read import source_files
from minislm.pretrained.hub import find_text

MODEL = "roneneldan/TinyStories-33M"
OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = bytes(range(256)) * 4096  # 1 MB


def model_files(**more: bytes) -> dict[str, bytes]:
    """A repository with both weight formats and much that no one here reads."""
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


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked for."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # id, commit, file
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW})
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  # id -> status, error code
    lost: set[str] = field(default_factory=set)  # files that are listed but not there
    cut: list[int] = field(default_factory=list)  # close these GETs of the weights half way
    stall: threading.Event | None = None  # hold a GET of the weights half way until this is set
    halfway: threading.Event = field(default_factory=threading.Event)
    log: list[tuple[str, str, str | None, int]] = field(default_factory=list)
    endpoint: str = ""

    def got(self) -> list[str]:
        """Names of the files whose bytes were sent, in sorted order."""
        return sorted(re.sub(r".*/resolve/[^/]+/", "", p) for m, p, _, _ in self.log if m == "GET"
                      and "/resolve/" in p)  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        kind = r"/api/(?:models/|(?=datasets/))((?:datasets/)?[^/]+/[^/]+)"
        api = re.fullmatch(kind + r"(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo, revision = (api[1], api[3] or "main") if api else (file[1], file[2])
        if not file:
            self.hub.log.append((self.command, path, None, 0))
        if repo in self.hub.refuse and not (api and self.hub.refuse[repo][1] == "GatedRepo"):
            return self.fail(*self.hub.refuse[repo])
        if repo not in self.hub.repos:
            return self.fail(404, "RepoNotFound")
        commit = self.hub.branches.get(revision, revision)
        if commit not in self.hub.repos[repo]:
            return self.fail(404, "RevisionNotFound")
        files = self.hub.repos[repo][commit]
        if api:
            return self.json(describe(repo, commit, files, tree=api[2] == "tree"))
        if repo in self.hub.refuse:
            return self.fail(*self.hub.refuse[repo])
        if file[3] not in files or file[3] in self.hub.lost:
            return self.fail(404, "EntryNotFound")
        self.file(path, files[file[3]], commit, body)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def file(self, path: str, data: bytes, commit: str, body: bool) -> None:
        span = self.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            self.hub.log.append(("HEAD", path, span, 0))
            return
        end = len(data)
        heavy = len(data) == len(WEIGHTS)
        if heavy and self.hub.cut:
            end = start + self.hub.cut.pop(0)
            self.close_connection = True
        if heavy and self.hub.stall:
            self.wfile.write(data[start : end // 2])
            self.hub.halfway.set()
            self.hub.stall.wait(20)
            start = end // 2
        self.hub.log.append(("GET", path, span, end - start))
        try:
            self.wfile.write(data[start:end])
        except OSError:  # the client was killed
            self.close_connection = True


def describe(repo: str, commit: str, files: dict[str, bytes], tree: bool) -> object:
    if tree:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
    return {"id": repo, "modelId": repo, "sha": commit, "tags": [], "downloads": 0, "likes": 0,
            "private": False, "siblings": [{"rfilename": name} for name in files]}  # fmt: skip


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


# huggingface_hub reads its environment when it is imported, so each user is a process of its own,
# which may ask for several models.
ASK = """
import json, sys
from minislm.pretrained import hub
from minislm.runtime.errors import UserError
for repo, revision in json.loads(sys.argv[1]):
    try:
        if revision == "text":
            print(json.dumps(hub.find_text(repo)))
            continue
        folder = hub.fetch(repo, revision)
        print(json.dumps([str(folder), str(hub.tokenizer_folder(repo, folder))]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def start(hub: Hub, cache: Path, *asked: tuple[str, str | None], before: str = "", **more: str):
    """Start a user's process that fetches each (model, revision); `before` is code to run first."""
    return subprocess.Popen(
        [sys.executable, "-c", before + ASK, json.dumps(asked)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(hub, cache) | more,
    )  # fmt: skip


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """A process's environment where this hub is the only one, and this its cache."""
    kept = {k: v for k, v in os.environ.items() if not re.match(r"HF_|HUGGING|.*proxy", k, re.I)}
    kept |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return kept


def ask(hub: Hub, cache: Path, *asked: tuple[str, str | None], **start_options: str) -> list:
    """For each (model, revision): the folder and the tokenizer's (once if equal), or the error."""
    process = start(hub, cache, *asked, **start_options)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [found(json.loads(line)) for line in out.splitlines()]


def found(answer: str | list[str]) -> str | Path | tuple[Path, ...]:
    """The error's text; or the one folder; or model and tokenizer where they are two."""
    if isinstance(answer, str):
        return answer
    folders = tuple(map(Path, answer))
    return folders[0] if len(set(folders)) == 1 else folders


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_needed_files_are_fetched_and_only_once(hub, tmp_path):
    [folder] = ask(hub, tmp_path, (MODEL, None))
    assert contents(folder) == {name: model_files()[name] for name in NEEDED}
    assert hub.got() == sorted(NEEDED)
    hub.log.clear()
    assert ask(hub, tmp_path, (MODEL, None)) == [folder]
    assert hub.got() == []


def test_the_cache_answers_without_a_network(hub, tmp_path):
    [folder] = ask(hub, tmp_path, (MODEL, None))
    hub.log.clear()
    offline = ask(hub, tmp_path, (MODEL, None), (MODEL, NEW), (MODEL, "v2"), HF_HUB_OFFLINE="1")
    assert offline[:2] == [folder, folder] and "HF_HUB_OFFLINE" in offline[2]
    assert "v2" in offline[2]
    assert hub.log == []
    hub.endpoint = "http://127.0.0.1:9"  # no one listens there
    again, error = ask(hub, tmp_path, (MODEL, None), ("a/b", None))
    assert again == folder
    assert "check the connection" in error and "\n" not in error
    [error] = ask(hub, tmp_path / "empty", (MODEL, None), HF_HUB_OFFLINE="1")
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
    folders = ask(hub, tmp_path, *((f"some/model{i}", None) for i in range(3)))
    assert [contents(folder) for folder in folders] == [base | files for files in wanted]
    # A cache that lost a shard, and no connection: not half a model.
    (folders[1] / "model-00002-of-00002.safetensors").unlink()
    [error] = ask(hub, tmp_path, ("some/model1", None), HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error


def test_a_missing_tokenizer_is_the_one_the_card_names(hub, tmp_path):
    bare = {"config.json": b"{}", "pytorch_model.bin": b"w"}
    hub.repos = {
        "roneneldan/TinyStories-1M": {NEW: bare},
        "EleutherAI/gpt-neo-125M": {NEW: model_files()},
        "some/model": {NEW: bare},
    }
    asked = [("roneneldan/TinyStories-1M", None), ("some/model", None)]
    (folder, tokenizer), error = ask(hub, tmp_path, *asked)
    assert contents(folder) == bare
    assert set(contents(tokenizer)) == NEEDED - {
        "config.json", "generation_config.json", "model.safetensors"
    }  # fmt: skip
    assert "no tokenizer.json" in error
    assert ask(hub, tmp_path, asked[0], HF_HUB_OFFLINE="1") == [(folder, tokenizer)]


def test_a_revision_pins_a_commit(hub, tmp_path):
    hub.repos[MODEL][OLD] = model_files(**{"config.json": b"old"})
    del hub.repos[MODEL][OLD]["model.safetensors"]
    hub.branches["v1"] = OLD
    by_tag, by_commit, newest = ask(hub, tmp_path, (MODEL, "v1"), (MODEL, OLD), (MODEL, None))
    assert by_tag == by_commit != newest
    assert (by_tag / "config.json").read_bytes() == b"old"
    assert (by_tag / "pytorch_model.bin").exists()  # the format is that of the revision
    assert (newest / "config.json").read_bytes() == model_files()["config.json"]
    assert hub.got().count("vocab.json") == 1  # the same bytes are stored once


def test_a_dropped_connection_is_resumed(hub, tmp_path):
    # Within a call huggingface_hub 2.4 waits a second and asks by Range for what follows the last
    # whole chunk; before 1.0 it gives up here and goes on when run again. Its chunks of 10 MB
    # are made smaller, as the file is.
    small = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1 << 16"
    half = len(WEIGHTS) // 2
    hub.cut = [half]
    [folder] = ask(hub, tmp_path, (MODEL, None), before=small)
    if isinstance(folder, str):
        assert "run again" in folder
        [folder] = ask(hub, tmp_path, (MODEL, None), before=small)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    sent = [(span, n) for m, p, span, n in hub.log if m == "GET" and p.endswith("safetensors")]
    assert sent == [(None, half), (f"bytes={half}-", half)]


def test_a_killed_download_is_whole_when_run_again(hub, tmp_path):
    # Across processes huggingface_hub 2.4 keeps the files that are whole and begins the part
    # of one anew (its temporary name is the process's own); older versions go on from the part.
    hub.stall = threading.Event()
    process = start(hub, tmp_path, (MODEL, None))
    assert hub.halfway.wait(30)
    process.kill()
    process.communicate()
    hub.stall.set()
    hub.stall = None
    [error] = ask(hub, tmp_path, (MODEL, None), HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error
    [folder] = ask(hub, tmp_path, (MODEL, None))
    assert contents(folder) == {name: model_files()[name] for name in NEEDED}


def test_mistakes_are_told_in_one_line(hub, tmp_path):
    files = model_files()
    hub.repos |= {
        "some/gated": {NEW: files},
        "some/no-config": {NEW: {k: v for k, v in files.items() if k != "config.json"}},
        "some/no-weights": {NEW: {"config.json": b"{}", "tokenizer.json": b"{}", "m.gguf": b""}},
        "some/lost": {NEW: files},
    }
    hub.refuse = {
        "some/private": (401, "RepoNotFound"),
        "some/gated": (403, "GatedRepo"),
        "some/forbidden": (403, "Forbidden"),
        "some/broken": (500, "Oops"),
    }
    expected = {
        ("not an id", None): "owner/name",
        ("a/b/c", None): "owner/name",
        ("roneneldan/TinyStories-Instruct-1Layer-21M", None): "TinyStories-Instuct-1Layer-21M",
        ("some/private", None): "hf auth login",
        ("some/gated", None): "accept its terms",
        ("some/forbidden", None): "HF_TOKEN",
        ("some/broken", None): "500",
        (MODEL, "v9"): "no revision 'v9'",
        (MODEL, "c" * 40): "no revision",
        ("some/no-config", None): "config.json",
        ("some/no-weights", None): "model.safetensors or pytorch_model.bin",
    }
    errors = ask(hub, tmp_path, *expected)
    for (repo, revision), error, part in zip(expected, errors, expected.values()):
        assert isinstance(error, str) and part in error and "\n" not in error, (repo, error)
        assert repo in error, error
    assert hub.got() == []  # nothing is downloaded in vain


def test_a_listed_file_that_the_hub_has_lost(hub, tmp_path):
    hub.lost = {"vocab.json"}
    [error] = ask(hub, tmp_path, (MODEL, None))
    assert MODEL in error and "vocab.json" in error and "\n" not in error


FULL_DISK = """
import errno
import huggingface_hub.file_download
def http_get(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
huggingface_hub.file_download.http_get = http_get
"""


def test_a_full_disk_is_named(hub, tmp_path):
    [error] = ask(hub, tmp_path, (MODEL, None), before=FULL_DISK)
    assert "no space for" in error and str(tmp_path) in error and "HF_HOME" in error


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


def ask_texts(hub: Hub, cache: Path, *sources: str, **environment: str) -> list:
    """For each source: its files and those of its validation text, by name, or the error."""
    process = start(hub, cache, *((source, "text") for source in sources), **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    answers = map(json.loads, out.splitlines())
    return [a if isinstance(a, str) else tuple(map(files_of, a)) for a in answers]


def files_of(pattern: str | None) -> dict[str, bytes] | None:
    return pattern and {file.name: file.read_bytes() for file in source_files(pattern)}


def named(*ends: str) -> dict[str, bytes]:
    return {name.split("/")[-1]: data for name, data in STORIES.items() if name.startswith(ends)}


V2 = named("TinyStoriesV2-GPT4-train"), named("TinyStoriesV2-GPT4-valid")


def test_a_text_and_the_validation_text_of_its_version(texts, tmp_path):
    assert ask_texts(texts, tmp_path, TEXTS) == [V2]
    assert texts.got() == ["TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"]
    texts.log.clear()
    parquet = named("data/train"), named("data/validation")
    asked = {
        f"{TEXTS}/TinyStories-train.txt": (named("TinyStories-train"), named("TinyStories-valid")),
        f"{TEXTS}/data/train-*.parquet": parquet,
        f"{TEXTS}@{NEW}/TinyStoriesV2-GPT4-train.txt": V2,
        f"{TEXTS}/TinyStoriesV2-GPT4-valid.txt": (V2[1], None),
        f"{TEXTS}/data/{next(iter(named('data/train')))}": (named("data/train-00000"), parquet[1]),
    }
    assert ask_texts(texts, tmp_path, *asked) == list(asked.values())
    assert len(texts.got()) == 5  # what was there is not sent again
    assert ask_texts(texts, tmp_path, *asked, HF_HUB_OFFLINE="1") == list(asked.values())


def test_a_data_set_with_one_training_text_needs_no_file_name(texts, tmp_path):
    text = {"a": b"text"}
    texts.repos |= {
        "datasets/some/text": {NEW: {"train.txt": b"t", "val.txt": b"v", "notes.txt": b"n"}},
        "datasets/some/rows": {NEW: {k: v for k, v in STORIES.items() if "data/" in k}},
        "datasets/some/both": {NEW: {"train.txt": b"t", "data/train.parquet": b"p"} | text},
        "datasets/some/none": {NEW: text},
    }
    names = [f"some/{name}" for name in ("text", "rows", "both", "none")]
    plain, rows, both, none = ask_texts(texts, tmp_path, *names)
    assert plain == ({"train.txt": b"t"}, {"val.txt": b"v"})
    assert rows == (named("data/train"), named("data/validation"))
    assert "some/both/FILE" in both and "data/train.parquet, train.txt" in both
    assert "no .txt or .parquet" in none
    again = ask_texts(texts, tmp_path, *names[:2], HF_HUB_OFFLINE="1")
    assert again == [plain, rows]


def test_half_a_data_set_is_not_taken_for_a_whole(texts, tmp_path):
    texts.lost = {"TinyStoriesV2-GPT4-valid.txt"}  # the training text comes, then this fails
    [error] = ask_texts(texts, tmp_path, TEXTS)
    assert "TinyStoriesV2-GPT4-valid.txt" in error and "\n" not in error
    [error] = ask_texts(texts, tmp_path, TEXTS, HF_HUB_OFFLINE="1")
    assert "not complete in the cache" in error


def test_mistakes_about_texts_are_told_in_one_line(texts, tmp_path):
    texts.refuse = {"datasets/some/private": (401, "RepoNotFound")}
    expected = {
        "some/private": "no data set some/private",
        f"{TEXTS}@v9": "no revision 'v9'",
        f"{TEXTS}/TinyStories-V2.txt": "has no TinyStories-V2.txt",
    }
    for source, error in zip(expected, ask_texts(texts, tmp_path, *expected)):
        assert expected[source] in error and "\n" not in error
        assert f"there is no {source} here" in error
    assert "TinyStoriesV2-GPT4-train.txt" in error and "data/train-*.parquet" in error
    assert texts.got() == []


def test_what_is_here_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch):
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
    assert "text    60 stories (roneneldan/TinyStories)" in done.stderr
    cached = [json.loads(file.read_text()) for file in tmp_path.glob("runs/cache/*/meta.json")]
    assert sorted(meta["stories"] for meta in cached) == [20, 60]
