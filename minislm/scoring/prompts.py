"""Prompts for scoring: beginnings of stories, which stop in mid-sentence, multiple-choice
questions (both as in Eldan & Li 2023, sections 3.1 and 4.2), and that of the judge."""

import json
import random
import re
from pathlib import Path

from minislm.stories.lexicon import words


def _fill(times: int, *template: object) -> list[list[str]]:
    """Questions of a template: a story and three prompts, each with its ending. {girls2} is the
    second of three words of the list `girls`. Each ending is right for one prompt."""
    found, rng = [], random.Random(str(template))
    for _ in range(times):
        text = json.dumps(template)
        for name in sorted(set(re.findall(r"\{(\w+)\d\}", text))):
            for k, word in enumerate(rng.sample([*getattr(words, name)], 3), 1):
                text = text.replace(f"{{{name}{k}}}", word)
        story, *pairs = json.loads(text)
        found += [[f"{story} {prompt}".lstrip(), right, *(e for _, e in pairs if e != right)]
                  for prompt, right in pairs]  # fmt: skip
    return found


_DATA = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
BEGINNINGS: list[str] = _DATA["beginnings"]
JUDGE: str = _DATA["judge"]  # with {prompt}, {text} and {ages}
# For each kind, lists of a prompt and its endings, of which the first is right.
QUESTIONS = {kind: [row for template in templates for row in _fill(*template)]
             for kind, templates in _DATA["questions"].items()}  # fmt: skip
