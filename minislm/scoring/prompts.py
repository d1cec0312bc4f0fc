"""Prompts for scoring (prompts.json): beginnings of stories, and multiple-choice questions.

They are of the kinds of the TinyStories paper (Eldan & Li 2023, sections 3.1 and 4.2), written for
this project. A beginning stops in the middle of a sentence, so that it has to be continued."""

import json
from pathlib import Path

_DATA = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
BEGINNINGS: list[str] = _DATA["beginnings"]
# For each kind, lists of a prompt and its endings, of which the first is right.
QUESTIONS: dict[str, list[list[str]]] = _DATA["questions"]
