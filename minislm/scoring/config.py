"""Options of `eval.py --score`."""

from dataclasses import dataclass

from minislm.config import check, option
from minislm.runtime.errors import UserError


@dataclass(frozen=True)
class ScoreConfig:
    """Scores of generated texts (--score)."""

    score: bool = option(False, "score generated texts in six dimensions, from 0 to 10")
    samples: int = option(200, "generated texts per model", minimum=16)
    prompt_file: str | None = option(None, "prompts, one per line (default: 44 of the project)")
    grader: str | None = option(None, "model whose likelihood of the texts is measured too")
    human: str | None = option(None, "CSV file of human scores to correlate with; needs --grader")
    judge: str | None = option(None, "OpenAI-compatible endpoint that judges too, and its model: "
                               "http://localhost:8000/v1#NAME; key: MINISLM_JUDGE_KEY")  # fmt: skip
    judge_budget: int = option(200_000, "tokens to and from the judge at most", minimum=1)

    def __post_init__(self) -> None:
        check(self)
        if self.judge is not None and not self.judge.partition("#")[2]:
            raise UserError(f"--judge takes URL#NAME, not {self.judge!r}: the model is missing")
        if self.human is not None and self.grader is None:
            raise UserError("--human needs --grader: likelihood alone is one of the baselines")
