"""A large model as a judge, behind any OpenAI-compatible endpoint, as in the TinyStories paper.

The judge reads a beginning and a student's continuation (section 3.2 of Eldan & Li 2023) and gives
grammar, creativity and consistency from 0 to 10 and an age group. Answers are kept in a file, so
that no text is paid for twice; a request that fails is tried again; a ceiling on tokens ends the
judging before it costs more than was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_write

ASKED = ("grammar", "creativity", "consistency")
AGES = {"A": "3 or under", "B": "4-5", "C": "6-7", "D": "8-9", "E": "10-12", "F": "13-16"}
KEY_VARIABLE = "MINISLM_JUDGE_KEY"
_TASK = """\
A student was given the beginning of a story and had to finish it. The sign *** stands between the \
given part and the student's. Think about the student's part only: is the language right, does it \
go on from the beginning (also where that stops in the middle of a sentence), is it imaginative, \
does the plot make sense?

{prompt}***{text}

Answer with one line of JSON and nothing else: {{"grammar": 0-10, "creativity": 0-10, \
"consistency": 0-10, "age": "A" to "F"}}, where age is your best guess of the student's: {ages}."""


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one continuation: 0 to 10 each, and a letter of AGES."""

    grammar: float
    creativity: float
    consistency: float
    age: str


class Judge:
    """Asks an endpoint for verdicts.

    Args:
        url: up to and including the version: http://localhost:8000/v1.
        model: the name that the endpoint knows it by.
        cache: a file of JSON lines in which verdicts are kept.
        budget: tokens, as the endpoint counts them, after which nothing more is asked.
        attempts, pause, timeout: how often a request is tried, the seconds before the second try
            (doubled each time), and the seconds an answer may take.

    The key, where one is needed, is read from the variable MINISLM_JUDGE_KEY.
    """

    def __init__(
        self, url: str, model: str, cache: str | Path, *, budget: int = 200_000,
        attempts: int = 4, pause: float = 1.0, timeout: float = 60.0,
    ):  # fmt: skip
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--judge takes a URL such as http://localhost:8000/v1, not {url!r}")
        self.url, self.model, self.cache = url.rstrip("/"), model, Path(cache)
        self.budget, self.attempts, self.pause, self.timeout = budget, attempts, pause, timeout
        self.spent = 0  # tokens, in this run
        self._known = self._read_cache()

    def judge(self, texts: Sequence[tuple[str, str]]) -> list[Verdict | None]:
        """A verdict on each (prompt, continuation); None where the judge gave no usable answer, or
        where the budget was spent by then.

        Raises:
            UserError: the endpoint refuses (a wrong key, name or address) or cannot be reached.
        """
        return [self._one(prompt, text) for prompt, text in texts]

    def _one(self, prompt: str, text: str) -> Verdict | None:
        question = _TASK.format(
            prompt=prompt, text=text, ages=", ".join(f"{k}: {v}" for k, v in AGES.items())
        )
        key = hashlib.sha256(f"{self.url}\0{self.model}\0{question}".encode()).hexdigest()
        if key in self._known:
            return Verdict(**self._known[key])
        if self.spent >= self.budget:
            return None
        for _ in range(2):  # an answer that is no verdict is asked for once more
            answer, tokens = self._request(question)
            self.spent += tokens
            verdict = read_verdict(answer)
            if verdict is not None:
                self._known[key] = vars(verdict)
                lines = (json.dumps({"key": k} | v) + "\n" for k, v in self._known.items())
                atomic_write(self.cache, "".join(lines))
                return verdict
            if self.spent >= self.budget:
                break
        return None

    def _request(self, question: str) -> tuple[str, int]:
        """The answer's text and what it cost; tries again where that may help."""
        body = {"model": self.model, "temperature": 0,
                "messages": [{"role": "user", "content": question}]}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        why = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _content(json.loads(response.read(1 << 20)), question)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code} {error.reason}"
                if error.code not in (408, 409, 429) and error.code < 500:
                    break
            except (OSError, ValueError) as error:  # not reached, too slow, or no JSON
                why = str(error) or type(error).__name__
        raise UserError(
            f"the judge at {self.url} gave no answer ({why}); verdicts so far are kept in "
            f"{self.cache}: check --judge, --judge-model and {KEY_VARIABLE}, and try again"
        )

    def _read_cache(self) -> dict[str, dict[str, Any]]:
        known = {}
        try:
            lines = self.cache.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return known
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.cache} ({error}); delete it") from error
        for line in lines:
            try:
                row = json.loads(line)
                key = row.pop("key")
                known[key] = vars(Verdict(**row))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise UserError(f"{self.cache} is damaged ({error}); delete it") from error
        return known


def _content(answer: Any, question: str) -> tuple[str, int]:
    """The text of a chat completion and its tokens; an answer of another form is no text.

    An endpoint that does not count is taken to need a token for every four characters.
    """
    try:
        text = str(answer["choices"][0]["message"]["content"])
    except (LookupError, TypeError):
        text = ""
    try:
        tokens = int(answer["usage"]["total_tokens"])
    except (LookupError, TypeError, ValueError):
        tokens = (len(question) + len(text)) // 4
    return text, max(1, tokens)


def read_verdict(text: str) -> Verdict | None:
    """The verdict in an answer, which may stand among other words; None if there is none."""
    for found in re.findall(r"\{[^{}]*\}", text):
        try:
            row = json.loads(found)
            values = [float(row[name]) for name in ASKED]
            age = str(row["age"]).strip().upper()[:1]
        except (ValueError, LookupError, TypeError):
            continue
        if all(0 <= value <= 10 for value in values) and age in AGES:
            return Verdict(*values, age)
    return None
