"""Options of `eval.py --score`."""

from __future__ import annotations

from dataclasses import dataclass

from minislm.config import check, option
from minislm.runtime.errors import UserError


@dataclass(frozen=True)
class ScoreConfig:
    """Scores of generated texts (--score)."""

    score: bool = option(False, "score generated texts: grammar, creativity, consistency and "
                         "instruction following, from 0 to 10")  # fmt: skip
    samples: int = option(200, "generated texts per model", minimum=16)
    prompt_file: str | None = option(None, "prompts, one per line (default: 44 of the project)")
    grader: str | None = option(None, "a model whose likelihood of the texts is printed beside the "
                                "scores")  # fmt: skip
    human: str | None = option(None, "CSV file of texts scored by people: correlate the scores "
                               "with it (needs --grader)")  # fmt: skip
    sensitivity: bool = option(False, "show the scores of texts that were corrupted on purpose")
    judge: str | None = option(None, "URL of an OpenAI-compatible endpoint that judges too, such "
                               "as http://localhost:8000/v1; its key is read from "
                               "MINISLM_JUDGE_KEY")  # fmt: skip
    judge_model: str | None = option(None, "name of the judge's model")
    judge_budget: int = option(200_000, "largest number of tokens sent to and from the judge",
                               minimum=1)  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if (self.judge is None) != (self.judge_model is None):
            raise UserError("--judge and --judge-model go together; give both")
        if self.human is not None and self.grader is None:
            raise UserError("--human needs --grader: likelihood alone is one of the baselines")
