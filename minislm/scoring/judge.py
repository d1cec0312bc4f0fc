"""A large language model as a judge, behind any OpenAI-compatible endpoint. It rates grammar,
creativity, context and plot from 0 to 10 and an age group (Eldan & Li 2023, section 3.2)."""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_write, read_text
from minislm.scoring.prompts import JUDGE

CRITERIA = ("grammar", "creativity", "context", "plot")
AGES = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
KEY_VARIABLE = "MINISLM_JUDGE_KEY"


@dataclass(frozen=True)
class Judgement:
    """Ratings of one continuation from 0 to 10, and a key of AGES."""

    grammar: float
    creativity: float
    context: float
    plot: float
    age: str


@dataclass
class Judge:
    """Requests judgements from an endpoint; its key is read from MINISLM_JUDGE_KEY."""

    url: str  # up to and including the version: http://localhost:8000/v1
    model: str
    cache: Path = Path("runs/cache/judge.jsonl")  # the judgements so far, one per line
    budget: int = 200_000  # tokens, by the endpoint's count, after which no request is sent
    attempts: int = 4  # tries per request
    pause: float = 1.0  # seconds before the second try, doubled each time
    timeout: float = 60.0  # seconds to wait for an answer
    spent: int = 0  # tokens, in this run

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--judge takes a URL like http://localhost:8000/v1, not {self.url!r}")
        self.url = self.url.rstrip("/")
        rows = read_text(self.cache).splitlines() if self.cache.exists() else []
        try:
            self._known = {row.pop("key"): Judgement(**row) for row in map(json.loads, rows)}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(f"{self.cache} is damaged ({error}); delete it") from error

    def judge(self, prompt: str, text: str) -> Judgement | None:
        """The judgement of a continuation; None without a usable answer or without budget.
        UserError: the endpoint refuses (wrong key, name or address) or cannot be reached."""
        ages = ", ".join(f"{key}: {age}" for key, age in AGES.items())
        question = JUDGE.format(prompt=prompt, text=text, ages=ages)
        key = hashlib.sha256(f"{self.url}\0{self.model}\0{question}".encode()).hexdigest()
        for _ in range(2):  # an answer that is no judgement is requested once more
            if key in self._known or self.spent >= self.budget:
                break
            answer, tokens = self._request(question)
            self.spent += tokens
            if (judgement := read_judgement(answer)) is not None:
                self._known[key] = judgement
                rows = [{"key": k} | asdict(each) for k, each in self._known.items()]
                atomic_write(self.cache, "".join(json.dumps(row) + "\n" for row in rows))
        return self._known.get(key)

    def _request(self, question: str) -> tuple[str, int]:
        """The answer's text and the tokens spent; retries where that may help."""
        body = {"model": self.model, "temperature": 0,
                "messages": [{"role": "user", "content": question}]}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        url, reason = f"{self.url}/chat/completions", ""
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _content(json.loads(response.read(1 << 20)), question)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code not in (408, 409, 429) and error.code < 500:
                    break
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                reason = str(error) or type(error).__name__
        raise UserError(f"the judge at {self.url} gave no answer ({reason}); judgements so far are "
                        f"kept in {self.cache}: check --judge and {KEY_VARIABLE}")  # fmt: skip


def _content(answer: Any, question: str) -> tuple[str, int]:
    """The text of a chat completion ("" for an answer of another form) and its tokens."""
    text, tokens = "", 0
    with suppress(LookupError, TypeError):
        text = str(answer["choices"][0]["message"]["content"])
    with suppress(LookupError, TypeError, ValueError):
        tokens = int(answer["usage"]["total_tokens"])
    return text, max(1, tokens or (len(question) + len(text)) // 4)


def read_judgement(text: str) -> Judgement | None:
    """The judgement in an answer, among other words or not; None without one."""
    for found in re.findall(r"\{[^{}]*\}", text):
        try:
            row = json.loads(found)
            ratings = [float(row[name]) for name in CRITERIA]
            age = str(row["age"]).strip().upper()[:1]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        if all(0 <= rating <= 10 for rating in ratings) and age in AGES:
            return Judgement(*ratings, age)
    return None
