"""The judge, against a local server that is slow, broken, busy, or talks nonsense."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minislm.runtime.errors import UserError
from minislm.scoring.judge import Judge, Verdict, read_verdict

GOOD = '{"grammar": 8, "creativity": 6.5, "consistency": 7, "age": "C"}'


@pytest.fixture
def stub():
    """A server that plays a list of answers, the last one for ever: (status, text), a number of
    seconds to wait, or raw bytes to send instead of a completion."""

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, self.headers, body))
            step = server.script.pop(0) if len(server.script) > 1 else server.script[0]
            if isinstance(step, float):
                time.sleep(step)
                step = (200, GOOD)
            status, text = step if isinstance(step, tuple) else (200, step)
            answer = text if isinstance(text, bytes) else json.dumps({
                "choices": [{"message": {"content": text}}], "usage": {"total_tokens": 100},
            }).encode()  # fmt: skip
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            try:
                self.wfile.write(answer)
            except OSError:
                pass  # the judge did not wait

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.asked, server.script = [], [GOOD]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def judge(stub, tmp_path):
    def make(**options):
        url = f"http://127.0.0.1:{stub.server_port}/v1"
        options = {"pause": 0.01, "timeout": 5.0} | options
        return Judge(url, "stub-model", tmp_path / "judge.jsonl", **options)

    return make


TEXTS = [("Once there was a cat. It", " ran away."), ("A dog", " barked.")]


def test_a_verdict_is_asked_for_once_and_kept(stub, judge, monkeypatch):
    monkeypatch.setenv("MINISLM_JUDGE_KEY", "secret")
    assert judge().judge(TEXTS) == [Verdict(8, 6.5, 7, "C")] * 2
    path, headers, body = stub.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "stub-model"
    assert headers["Authorization"] == "Bearer secret"
    assert "It*** ran away." in body["messages"][0]["content"]
    assert judge().judge(TEXTS) == [Verdict(8, 6.5, 7, "C")] * 2
    assert len(stub.asked) == 2  # the second judge read the file
    kept = (judge().cache).read_text()
    assert "secret" not in kept


@pytest.mark.parametrize("first", [(500, "down"), (429, "busy"), (503, ""), b"<html>not json", 0.4])
def test_what_may_pass_is_tried_again(stub, judge, first):
    stub.script = [first, GOOD]
    assert judge(timeout=0.2).judge(TEXTS[:1]) == [Verdict(8, 6.5, 7, "C")]
    assert len(stub.asked) == 2


@pytest.mark.parametrize(
    "answer", ["I like it a lot!", '{"grammar": 11}', b"[]", b'{"choices": []}']
)
def test_nonsense_gives_no_verdict_and_is_not_kept(stub, judge, answer):
    stub.script = [answer]
    one = judge()
    assert one.judge(TEXTS[:1]) == [None]
    assert len(stub.asked) == 2 and not one.cache.exists()


def test_a_refusal_is_one_line_and_keeps_what_is_there(stub, judge):
    stub.script = [GOOD, (401, "who are you")]
    with pytest.raises(UserError, match="HTTP 401.*MINISLM_JUDGE_KEY"):
        judge().judge(TEXTS)
    assert len(stub.asked) == 2  # not tried again
    stub.script = [GOOD]
    assert None not in judge().judge(TEXTS) and len(stub.asked) == 3


def test_a_server_that_stays_down_is_told_after_all_attempts(stub, judge):
    stub.script = [(500, "down")]
    with pytest.raises(UserError, match="gave no answer"):
        judge(attempts=3).judge(TEXTS)
    assert len(stub.asked) == 3


def test_the_budget_ends_the_judging(stub, judge):
    one = judge(budget=100)  # each answer costs 100 tokens
    assert one.judge(TEXTS) == [Verdict(8, 6.5, 7, "C"), None]
    assert len(stub.asked) == 1 and one.spent == 100


def test_a_damaged_cache_and_a_wrong_url_are_refused(judge, tmp_path):
    (tmp_path / "judge.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="damaged"):
        judge()
    with pytest.raises(UserError, match="--judge takes a URL"):
        Judge("localhost", "m", tmp_path / "other")


def test_a_verdict_may_stand_among_words():
    assert read_verdict(f"Sure! Here it is: {GOOD} Anything else?") == Verdict(8, 6.5, 7, "C")
    assert read_verdict('{"grammar": "nine"}') is None and read_verdict("") is None
    assert read_verdict(GOOD.replace('"C"', '"Z"')) is None
