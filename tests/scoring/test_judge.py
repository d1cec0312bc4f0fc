"""The judge, with a local server that is slow, broken or busy, or whose answers are unusable."""

import socket
import threading

import pytest

from minislm.runtime.errors import UserError
from minislm.scoring.judge import Judge, Judgement, read_judgement

GOOD = '{"grammar": 8, "creativity": 6.5, "context": 7, "plot": 5, "age": "C"}'
EXPECTED = Judgement(8, 6.5, 7, 5, "C")
TEXTS = [("Once there was a cat. It", " ran away."), ("A dog", " barked.")]


@pytest.fixture
def judge(stub, tmp_path):
    def make(**options):
        url = f"http://127.0.0.1:{stub.server_port}/v1"
        options = {"pause": 0.01, "timeout": 5.0} | options
        return Judge(url, "stub-model", tmp_path / "judge.jsonl", **options)

    return make


def judge_all(one):
    return [one.judge(*text) for text in TEXTS]


def test_a_judgement_is_requested_once_and_cached(stub, judge, monkeypatch):
    monkeypatch.setenv("MINISLM_JUDGE_KEY", "secret")
    assert judge_all(judge()) == [EXPECTED] * 2
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions" and body["model"] == "stub-model"
    assert headers["Authorization"] == "Bearer secret"
    assert "It*** ran away." in body["messages"][0]["content"]
    assert judge_all(judge()) == [EXPECTED] * 2
    assert len(stub.requests) == 2  # the second judge read the file
    assert "secret" not in judge().cache.read_text()


@pytest.mark.parametrize("first", [(500, "down"), (429, "busy"), (503, ""), b"<html>not json", 0.4])
def test_a_temporary_failure_is_retried(stub, judge, first):
    stub.script = [first, GOOD]
    assert judge(timeout=0.2).judge(*TEXTS[0]) == EXPECTED
    assert len(stub.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        "I like it a lot!",
        '{"grammar": 11}',
        b"[]",
        b'{"choices": []}',
        '{"age":' + "[" * 20_000 + "}",
    ],
)
def test_an_unusable_answer_gives_no_judgement_and_is_not_cached(stub, judge, answer):
    stub.script = [answer]
    one = judge()
    assert one.judge(*TEXTS[0]) is None
    assert len(stub.requests) == 2 and not one.cache.exists()


def test_a_refusal_is_one_line_and_keeps_the_cache(stub, judge):
    stub.script = [GOOD, (401, "who are you")]
    with pytest.raises(UserError, match="HTTP 401.*MINISLM_JUDGE_KEY"):
        judge_all(judge())
    assert len(stub.requests) == 2  # not retried
    stub.script = [GOOD]
    assert None not in judge_all(judge()) and len(stub.requests) == 3


def test_a_server_that_stays_down_is_reported_after_all_attempts(stub, judge):
    stub.script = [(500, "down")]
    with pytest.raises(UserError, match="gave no answer"):
        judge(attempts=3).judge(*TEXTS[0])
    assert len(stub.requests) == 3


def test_a_server_that_does_not_speak_http_is_reported(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1 << 16)
                connection.sendall(b"garbage\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        one = Judge(url, "m", tmp_path / "judge.jsonl", attempts=2, pause=0.01, timeout=5.0)
        with pytest.raises(UserError, match="gave no answer .*garbage"):
            one.judge(*TEXTS[0])


def test_no_request_is_sent_beyond_the_budget(stub, judge):
    one = judge(budget=100)  # each answer costs 100 tokens
    assert judge_all(one) == [EXPECTED, None]
    assert len(stub.requests) == 1 and one.spent == 100


def test_tokens_are_estimated_where_the_endpoint_does_not_count_them(stub, judge):
    stub.script = [b'{"choices": [{"message": {"content": "no"}}]}']
    one = judge(budget=1)
    assert one.judge(*TEXTS[0]) is None and len(stub.requests) == 1
    characters = len(stub.requests[0][2]["messages"][0]["content"]) + len("no")
    assert one.spent == characters // 4


def test_a_damaged_cache_and_a_wrong_url_are_refused(judge, tmp_path):
    (tmp_path / "judge.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="damaged"):
        judge()
    with pytest.raises(UserError, match="--judge takes a URL"):
        Judge("localhost", "m", tmp_path / "other")


def test_a_judgement_may_be_among_other_words():
    assert read_judgement(f"Sure! Here it is: {GOOD} Anything else?") == EXPECTED
    assert read_judgement('{"grammar": "nine"}') is None and read_judgement("") is None
    assert read_judgement(GOOD.replace('"C"', '"Z"')) is None
