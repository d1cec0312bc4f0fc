"""A small server on this machine that has the hub's paths, and processes that download from it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from helpers import ROOT

NEW = "b" * 40  # the commit of the main branch
LISTED = ("GatedRepo", "FilesForbidden")  # errors of repositories whose file names can be seen
WEIGHTS = bytes(range(256)) * 4096  # 1 MB


@dataclass
class Hub:
    """What the server has, how it fails, and what was requested."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # id, commit, file
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW})
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  # id -> status, error code
    lost: set[str] = field(default_factory=set)  # files that are listed and missing
    cut: list[int] = field(default_factory=list)  # close these GETs of the weights half way
    stall: threading.Event | None = None  # hold a GET of the weights half way until this is set
    halfway: threading.Event = field(default_factory=threading.Event)
    log: list[tuple[str, str, str | None, int]] = field(default_factory=list)
    endpoint: str = ""

    def sent(self) -> list[str]:
        """Names of the files whose bytes were sent, sorted."""
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
        if repo in self.hub.refuse and not (api and self.hub.refuse[repo][1] in LISTED):
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


# huggingface_hub reads its environment when it is imported, so each user is a process of its own,
# which may request several models.
CODE = """
import json, sys
from minislm.pretrained import hub
from minislm.runtime.errors import UserError
for repo, revision in json.loads(sys.argv[1]):
    try:
        if revision == "text":
            print(json.dumps(hub.find_text(repo)))
            continue
        print(json.dumps(list(map(str, hub.fetch(repo, revision)))))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def start(hub: Hub, cache: Path, *requests: tuple[str, str | None], before: str = "", **more: str):
    """Start a user's process that fetches each (model, revision); `before` is code to run first."""
    return subprocess.Popen(
        [sys.executable, "-c", before + CODE, json.dumps(requests)],
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


def request(hub: Hub, cache: Path, *requests: tuple[str, str | None], **start_options: str) -> list:
    """For each (model, revision): the folder and the tokenizer's (once if equal), or the error."""
    process = start(hub, cache, *requests, **start_options)
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
