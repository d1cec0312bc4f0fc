"""From prompts to text: batched, with a KV cache, and the same text whatever else is in the batch.

A batch has up to `batch_size` rows. Each row is a prompt being continued. When a sequence ends, the
last row moves into its place and a waiting prompt gets the free row. Every sequence has uniform
random numbers of its own, one per token, so its text depends on its prompt, its seed and the
settings alone. (A matrix product of another number of rows may differ in its last bit: where two
tokens are equally probable to seven digits, either may be chosen.)"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minislm.config import SampleConfig
from minislm.kv_cache import KVCache
from minislm.model import Transformer
from minislm.runtime.errors import UserError
from minislm.sampling import TokenSampler, penalize
from minislm.tokenizer import StreamDecoder, Tokenizer

Pick = Callable[[Tensor, Tensor], Tensor]  # logits [B, V], uniforms [B] -> tokens [B]


class Engine(Protocol):
    """Rows of a cache, and the model that fills them. Tensors are given to it on the CPU."""

    steps: int  # tokens per decode call
    length: int  # the longest that a sequence can become

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into rows; the logits after the last token of each [n, V]."""
        ...

    def decode(self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, pick: Pick) -> Tensor:
        """Continue rows 0 to B - 1 from their last tokens, at these positions: tokens [B, n]."""
        ...

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`."""
        ...


class PlainEngine:
    """One forward pass per token, for all rows together; prompts are read one at a time."""

    steps = 1

    def __init__(self, model: Transformer, rows: int, length: int):
        self.model, self.length, self.device = model, length, model.embedding.weight.device
        self.cache = KVCache.empty(model.config, rows, length, like=model.embedding.weight)

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        logits = []
        for row, prompt in zip(rows, prompts):
            tokens_1T = torch.tensor([prompt], device=self.device)
            pos_1T = torch.arange(len(prompt), device=self.device)[None]
            cache = self.cache.view(slice(row, row + 1), len(prompt))
            features_1TC = self.model.features(tokens_1T, cache, pos_1T)
            logits.append(self.model.head(features_1TC[:, -1]))
        return torch.cat(logits)

    def decode(self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, pick: Pick) -> Tensor:
        cache = self.cache.view(slice(len(tokens_B)), int(pos_B.max()) + 1)
        tokens_B, pos_B, u_Bn = (each.to(self.device) for each in (tokens_B, pos_B, u_Bn))
        logits_B1V = self.model(tokens_B[:, None], cache, pos_B[:, None])
        return pick(logits_B1V[:, 0], u_Bn[:, 0])[:, None]

    def move(self, source: int, target: int) -> None:
        self.cache.move(source, target)


class UncachedEngine:
    """For a module that has only `forward`: every text is read again for every token. Slow and
    obvious; the other engines are tested against it."""

    steps, length = 1, 1 << 30

    def __init__(self, model: nn.Module):
        self.model, self.texts = model, {}

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        self.texts |= {row: list(ids) for row, ids in zip(rows, prompts)}
        return torch.stack([self.model(torch.tensor([self.texts[row]]))[0, -1] for row in rows])

    def decode(self, tokens_B: Tensor, pos_B: Tensor, u_Bn: Tensor, pick: Pick) -> Tensor:
        texts = [self.texts[row] + [token] for row, token in enumerate(tokens_B.tolist())]
        return pick(self.prefill(range(len(texts)), texts), u_Bn[:, 0])[:, None]

    def move(self, source: int, target: int) -> None:
        self.texts[target] = self.texts[source]


@dataclass
class Continuation:
    """A prompt and its new tokens: it waits for a row of the batch, has one, and ends."""

    prompt: Sequence[int]
    seed: int
    remaining: int  # tokens that it may still get; 0 when it has ended
    ids: list[int] = field(default_factory=list)  # with the end of text, if it came
    logprobs: list[float] = field(default_factory=list)  # under the model, before any setting
    text: str = ""  # of the new tokens, where there are stop strings
    decoder: StreamDecoder | None = None
    uniforms: np.ndarray = field(default_factory=lambda: np.zeros(0))  # a random number per token

    def add(self, tokens: Sequence[int], stop_ids: Collection[int], stops: Sequence[str]) -> None:
        """Add tokens as far as the end of text, a stop string or the limit."""
        for token in tokens[: self.remaining]:
            self.ids.append(token)
            self.remaining -= 1
            if self.decoder is not None:
                self.text += self.decoder.push(token)
            if token in stop_ids or any(stop in self.text for stop in stops):
                self.remaining = 0
                break


class Batch:
    """The continuations that have a row: number b is in row b of the engine."""

    def __init__(
        self, engine: Engine, settings: SampleConfig, tokenizer: Tokenizer | None,
        token_sampler: type[TokenSampler],
    ):  # fmt: skip
        self.engine, self.settings, self.tokenizer = engine, settings, tokenizer
        s, size = settings, tokenizer.vocab_size if tokenizer else 1 << 62
        self.stop_ids = tokenizer.end_ids if tokenizer and s.stop else ()
        self.sample = token_sampler(s.temperature, s.top_k, s.top_p, s.min_p, size)
        self.rows: list[Continuation] = []

    def prefill(self, new: list[Continuation]) -> None:
        """Read prompts into free rows and sample the first token of each."""
        for each in new:
            size = each.remaining + self.engine.steps  # some may be sampled beyond the end
            each.uniforms = np.random.default_rng(each.seed).random(size, np.float32)
            if self.settings.stop_strings and self.tokenizer:
                each.decoder = StreamDecoder(self.tokenizer, each.prompt)
        rows = range(len(self.rows), len(self.rows) + len(new))
        logits_BV = self.engine.prefill(rows, [each.prompt for each in new])
        u_B = self._uniforms(new, 1)[:, 0].to(logits_BV.device)
        self._add(new, self._pick(new)(logits_BV, u_B)[:, None])
        self.rows += new

    def decode(self) -> None:
        """The next tokens of all rows: `engine.steps` of them, or one where the longest row would
        exceed the engine's length. What is sampled beyond the end of a text is dropped."""
        tokens_B = torch.tensor([each.ids[-1] for each in self.rows])
        pos_B = torch.tensor([len(each.prompt) + len(each.ids) - 1 for each in self.rows])
        fits = int(pos_B.max()) + self.engine.steps <= self.engine.length
        u_Bn = self._uniforms(self.rows, self.engine.steps if fits else 1)
        self._add(self.rows, self.engine.decode(tokens_B, pos_B, u_Bn, self._pick(self.rows)))

    def compact(self) -> None:
        """Remove what has ended; the last rows take the free places."""
        for row in reversed(range(len(self.rows))):
            if self.rows[row].remaining == 0:
                last = self.rows.pop()
                if row < len(self.rows):
                    self.engine.move(len(self.rows), row)
                    self.rows[row] = last

    def _uniforms(self, rows: Sequence[Continuation], n: int) -> Tensor:
        """The next random numbers of each row [B, n]."""
        parts = [each.uniforms[len(each.ids) : len(each.ids) + n] for each in rows]
        return torch.from_numpy(np.stack(parts))

    def _add(self, rows: Sequence[Continuation], tokens_Bn: Tensor) -> None:
        for each, tokens in zip(rows, tokens_Bn.tolist()):
            each.add(tokens, self.stop_ids, self.settings.stop_strings)

    def _pick(self, rows: Sequence[Continuation]) -> Pick:
        """How to sample: step by step with a penalty, log-probabilities or ids without a token."""
        penalty = self.settings.repetition_penalty
        unused = self.tokenizer.unused_ids if self.tokenizer else []
        if penalty == 1 and not self.settings.logprobs and not unused:
            return self.sample

        def pick(logits_BV: Tensor, u_B: Tensor) -> Tensor:
            allowed_BV = logits_BV.float().clone()
            allowed_BV[:, [i for i in unused if i < allowed_BV.shape[1]]] = -torch.inf
            if penalty != 1:
                seen_BV = torch.zeros_like(allowed_BV, dtype=torch.bool)
                for seen_V, each in zip(seen_BV, rows):
                    seen_V[[*each.prompt, *each.ids]] = True
                allowed_BV = penalize(allowed_BV, seen_BV, penalty)
            tokens_B = self.sample(allowed_BV, u_B)
            logprobs_BV = logits_BV.float().log_softmax(-1)
            for each, value in zip(rows, logprobs_BV.gather(1, tokens_B[:, None])[:, 0].tolist()):
                each.logprobs.append(value)
            return tokens_B

        return pick


class Sampler:
    """Continues prompts with a model.

    Args:
        model: a Transformer; or any module whose `forward(tokens [B, T])` returns logits
            [B, T, V], which is then computed without a cache. It is put in eval mode.
        tokenizer: needed for text, and to stop at the end of text.
        batch_size: rows decoded together; more prompts wait for a free row.

    Raises:
        UserError: fewer than one row."""

    token_sampler = TokenSampler  # a subclass may have a faster one

    def __init__(self, model: nn.Module, tokenizer: Tokenizer | None = None, batch_size: int = 64):
        if batch_size < 1:
            raise UserError(f"a batch needs at least 1 row, not {batch_size}")
        self.model: Any = model.eval()
        self.tokenizer, self.batch_size = tokenizer, batch_size

    def generate(
        self, prompts: Sequence[str], settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None, **changes: Any,
    ) -> list[str]:  # fmt: skip
        """The continuation of each prompt, without the prompt and without the end of text.

        Args:
            settings: a SampleConfig; or give its fields by name (max_new_tokens, temperature,
                top_k, top_p, min_p, seed, stop, ...).
            seeds: one per prompt; else all have the seed of the settings.

        Raises:
            UserError: a prompt as long as the context, or longer."""
        settings = settings or SampleConfig(**changes)
        id_lists = [self.text_tokenizer().prompt_ids(prompt) for prompt in prompts]
        return [self.text(new, settings) for new in self.continuations(id_lists, settings, seeds)]

    def generate_ids(
        self, id_lists: Sequence[Sequence[int]], settings: SampleConfig | None = None,
        seeds: Sequence[int] | None = None, **changes: Any,
    ) -> list[list[int]]:  # fmt: skip
        """The new token ids of each prompt, with the end of text if it came; see `generate`."""
        settings = settings or SampleConfig(**changes)
        return [new.ids for new in self.continuations(id_lists, settings, seeds)]

    @torch.inference_mode()
    def continuations(
        self, id_lists: Sequence[Sequence[int]], settings: SampleConfig,
        seeds: Sequence[int] | None = None,
    ) -> list[Continuation]:  # fmt: skip
        """The new tokens of each prompt, with log-probabilities if the settings have `logprobs`."""
        found, length = self._start(id_lists, settings, seeds)
        self._run(deque(found), settings, length)
        return found

    @torch.inference_mode()
    def stream(
        self, prompt: str, settings: SampleConfig | None = None, **changes: Any
    ) -> Iterator[str]:
        """The continuation of one prompt as it is made, in whole characters; text that may be the
        beginning of a stop string is held back."""
        settings = settings or SampleConfig(**changes)
        (new,), length = self._start([self.text_tokenizer().prompt_ids(prompt)], settings, None)
        decoder, text, read, shown = StreamDecoder(self.text_tokenizer(), new.prompt), "", 0, 0
        held = max(map(len, settings.stop_strings), default=1) - 1
        for _ in self._steps(self._engine(1, length, settings), deque([new]), settings, rows=1):
            text += "".join(map(decoder.push, new.ids[read:]))
            certain = max(shown, min(len(text) - held, len(before(text, settings.stop_strings))))
            yield text[shown:certain]
            read, shown = len(new.ids), certain
        yield before(text + decoder.flush(), settings.stop_strings)[shown:]

    def text(self, new: Continuation, settings: SampleConfig) -> str:
        """The text of new tokens, cut before the first stop string."""
        text = self.text_tokenizer().continuation(new.prompt, new.ids)
        return before(text, settings.stop_strings)

    # --- decoding; a subclass may use another engine, or several at once --------------------------

    def _engine(self, rows: int, length: int, settings: SampleConfig) -> Engine:
        """An engine for `rows` sequences of up to `length` tokens."""
        if not hasattr(self.model, "features"):
            return UncachedEngine(self.model)
        return PlainEngine(self.model, rows, length)

    def _run(self, waiting: deque[Continuation], settings: SampleConfig, length: int) -> None:
        """Complete all that wait."""
        rows = min(self.batch_size, len(waiting))
        for _ in self._steps(self._engine(rows, length, settings), waiting, settings, rows):
            pass

    def _steps(
        self, engine: Engine, waiting: deque[Continuation], settings: SampleConfig, rows: int
    ) -> Iterator[None]:
        """The loop: free rows take what waits, all rows get tokens, what has ended leaves."""
        batch = Batch(engine, settings, self.tokenizer, self.token_sampler)
        while batch.rows or waiting:
            free = rows - len(batch.rows)
            # Prefilling a few at a time keeps the batch full without a prefill at every step.
            new: list[Continuation] = []
            if not batch.rows or free >= max(1, rows // 8):
                with suppress(IndexError):  # none waits
                    while len(new) < free:
                        new.append(waiting.popleft())
            if new:
                batch.prefill(new)
            elif batch.rows:
                batch.decode()
            yield
            batch.compact()

    def _start(
        self, id_lists: Sequence[Sequence[int]], settings: SampleConfig,
        seeds: Sequence[int] | None,
    ) -> tuple[list[Continuation], int]:  # fmt: skip
        """The continuations to sample, and the greatest length that a sequence can reach."""
        config = getattr(self.model, "config", None)
        context, size = (config.context, config.vocab_size) if config else (1 << 30, 1 << 62)
        for ids in id_lists:
            if not len(ids):
                raise UserError("an empty prompt; give at least one token (the end of text)")
            if len(ids) >= context:
                raise UserError(f"the prompt has {len(ids)} tokens and the model's context is "
                                f"{context}; shorten the prompt")  # fmt: skip
            if not 0 <= min(ids) <= max(ids) < size:
                raise UserError(f"a token id is outside the vocabulary of {size}")
        seeds = [settings.seed] * len(id_lists) if seeds is None else list(seeds)
        if len(seeds) != len(id_lists):
            raise UserError(f"{len(seeds)} seeds for {len(id_lists)} prompts; give each prompt one")
        if settings.stop_strings:
            self.text_tokenizer()
        most = [min(settings.max_new_tokens, context - len(ids)) for ids in id_lists]
        length = max((len(ids) + count for ids, count in zip(id_lists, most)), default=0)
        return list(map(Continuation, id_lists, seeds, most)), length

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises ValueError if there is none."""
        if self.tokenizer is None:
            raise ValueError("Sampler(model, tokenizer) is needed for text")
        return self.tokenizer


def before(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
