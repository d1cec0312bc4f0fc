"""Beam search: the likeliest text as a whole, as far as a few beams can see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minislm.config import SampleConfig
from minislm.fast.engine import Engine, Uncached


def search(
    engine: Engine | Uncached,
    prompt: Sequence[int],
    limit: int,
    settings: SampleConfig,
    stop_id: int | None,
) -> list[int]:
    """The best continuation by beam search, its end of text included (Wu et al. 2016, section 7).

    `settings.beams` texts are kept. Of the best 2 x beams ways to go on, those that end (the best
    `beams` only) are finished texts, the others are the new beams. A finished text's score is its
    log-probability divided by its length to the power `length_penalty`. The search ends when as
    many are finished as there are beams and the best running one would score below them.

    Args: an engine with `beams` rows; `limit` new tokens at most, where every beam ends.
    """
    beams = settings.beams
    logits_BV = engine.prefill([0], [prompt])
    scores_B, texts = torch.zeros(1), [[]]  # the prompt is the only beam to start from
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        banned = stop_id if length <= settings.min_new_tokens else None
        running = []
        for rank, (score, beam, token) in enumerate(_best(scores_B, logits_BV, 2 * beams, banned)):
            text = texts[beam] + [token]
            if token != stop_id and length < limit:
                running.append((score, beam, text))
            elif rank < beams:
                finished.append((score / length**settings.length_penalty, text))
        finished = sorted(finished, key=lambda each: -each[0])[:beams]
        running = running[:beams]
        if length == limit or not running:
            break
        if len(finished) == beams:
            if running[0][0] / length**settings.length_penalty <= finished[-1][0]:
                break
        scores_B = torch.tensor([score for score, _, _ in running])
        texts = [text for _, _, text in running]
        engine.copy(list(range(len(running))), [beam for _, beam, _ in running])
        tokens_B = torch.tensor([text[-1] for text in texts], device=engine.device)
        logits_BV = engine.step(tokens_B, torch.full_like(tokens_B, len(prompt) + length - 1))
    return finished[0][1]


def _best(
    scores_B: Tensor, logits_BV: Tensor, count: int, banned: int | None
) -> list[tuple[float, int, int]]:
    """The likeliest (log-probability, beam, token), best first; fewer if there are not so many."""
    logprobs_BV = logits_BV.float().log_softmax(-1).cpu()
    if banned is not None:
        logprobs_BV[:, banned] = -torch.inf
    V = logprobs_BV.shape[1]
    scores = (scores_B[:, None] + logprobs_BV).flatten()
    best = scores.topk(min(count, len(scores)))
    places = best.indices.tolist()
    return [(score, place // V, place % V) for score, place in zip(best.values.tolist(), places)]
