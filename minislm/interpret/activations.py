"""Looking inside: what each token costs, what each head reads, and what excites each neuron.

Heads are sorted into the two kinds of the TinyStories paper (Eldan & Li 2023, section 5). By
distance: the largest mean share of attention that lies at one fixed distance. By meaning: the
largest mean share on tokens of one word class, beyond what an even look at all tokens before would
put there. A head is of the kind whose share is the larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.interpret.ablation import Part, ablated, heads
from minislm.model import Attention, Transformer, causal_mask
from minislm.stories.lexicon import WORD_CLASSES, classify
from minislm.tokenizer import StreamDecoder, Tokenizer

ALTERNATIVES = 5  # likeliest next tokens that are told
DISTANCES = 32  # distances a head is tried for


@dataclass(frozen=True)
class Text:
    """A text as a model reads it: token t was predicted from the tokens before it."""

    ids: list[int]  # [T]
    pieces: list[str]  # the text of each token
    classes: np.ndarray  # [T], places in WORD_CLASSES
    losses: np.ndarray  # [T] nats; NaN for a first token that nothing stands before
    alternatives: list[list[tuple[str, float]]]  # what was likeliest instead, with probabilities


@dataclass(frozen=True)
class Head:
    """What one head does."""

    layer: int
    number: int
    kind: str  # "distance" or "meaning"
    distance: int  # the one it looks at most
    at_distance: float  # mean share of attention there
    word_class: str  # the one it looks at beyond its due
    on_class: float  # mean share beyond an even look
    cost: float  # nats per token that switching it off adds, on validation text


@dataclass(frozen=True)
class Peak:
    """A place that excites a neuron."""

    value: float
    before: str
    token: str
    after: str


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; a token inside a character is empty, the last one holds it whole."""
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    if pieces:
        pieces[-1] += decoder.flush()
    return pieces


def class_of_characters(words: Sequence[tuple[str, str]]) -> np.ndarray:
    """Of (piece of text, its class) side by side: the class of each character, as a place in
    WORD_CLASSES."""
    places = [WORD_CLASSES.index(name) for _, name in words]
    return np.repeat(places, [len(piece) for piece, _ in words])


def classes_of(pieces: Sequence[str]) -> np.ndarray:
    """The word class of each token, by the word its last character stands in: [T]."""
    of_character = class_of_characters(classify("".join(pieces)))
    ends = np.cumsum([len(piece) for piece in pieces])
    other = WORD_CLASSES.index("other")
    return np.array([of_character[e - 1] if p else other for e, p in zip(ends, pieces)], int)


def _begun(model: Transformer, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[str]]:
    """The ids of a text behind an end of text, cut to the context, and their pieces."""
    ids = ([tokenizer.eot_id] + tokenizer.encode(text))[: model.config.context]
    return ids, ["", *pieces_of(tokenizer, ids[1:])]


@torch.inference_mode()
def read(model: Transformer, tokenizer: Tokenizer, text: str) -> tuple[Text, Tensor]:
    """A text token by token, and every head's attention [L, H, T, T] over it.

    The text stands behind an end of text, as a story does in training; row t of a map is what
    token t reads. A text longer than the context is cut.
    """
    ids, pieces = _begun(model, tokenizer, text)
    maps_LHTT, features_TC = attention_of(model, ids)
    tokens = torch.tensor([ids], device=features_TC.device)
    logits_TV = model.head(features_TC).float()
    logprobs_TV = logits_TV[:-1].log_softmax(-1)
    losses = -logprobs_TV.gather(1, tokens[0, 1:, None])[:, 0]
    values, best = logprobs_TV.exp().topk(min(ALTERNATIVES, logprobs_TV.shape[1]))
    alternatives = [
        [(tokenizer.decode([i]) or "(end)", p) for i, p in zip(row, probabilities)]
        for row, probabilities in zip(best.tolist(), values.tolist())
    ]
    found = Text(
        ids, pieces, classes_of(pieces), np.append(np.nan, losses.cpu().numpy()),
        [[], *alternatives],
    )  # fmt: skip
    return found, maps_LHTT


@torch.inference_mode()
def attention_of(model: Transformer, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Every head's attention over one text [L, H, T, T], in float32 on the CPU, every row of which
    sums to 1; and the text's features [T, C]."""
    maps: dict[int, Tensor] = {}

    def look(attention: Attention, inputs: tuple, options: dict) -> None:
        x_BTC, rotary = inputs[0], inputs[1]
        q_BHTD, k_BKTD, _ = attention.project(x_BTC, rotary)
        k_BHTD = k_BKTD.repeat_interleave(attention.H // attention.K, dim=1)
        T = x_BTC.shape[1]
        mask = causal_mask(torch.arange(T, device=x_BTC.device), T, attention.window)
        maps[attention.layer] = attention_weights(q_BHTD, k_BHTD, mask, attention.scale)

    hooks = (
        block.attention.register_forward_pre_hook(look, with_kwargs=True) for block in model.blocks
    )
    with _hooked(hooks):
        features_BTC = model.features(torch.tensor([ids], device=model.embedding.weight.device))
    return torch.cat([maps[layer] for layer in range(model.config.n_layer)]).cpu(), features_BTC[0]


def attention_weights(q_BHTD: Tensor, k_BHSD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) over the tokens where `mask` is true, in float32: [B, H, T, S]."""
    scores_BHTS = (q_BHTD.float() @ k_BHSD.float().transpose(-1, -2)) * scale
    return scores_BHTS.masked_fill(~mask, -torch.inf).softmax(dim=-1)


@contextmanager
def _hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Inside, hooks are in place; afterwards they are not."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


def classify_heads(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: Sequence[str],
    parts: Iterable[Part] | None = None,
) -> list[Head]:
    """The kind and cost of `parts` (default: every head), measured on stories."""
    c = model.config
    at_distance = torch.zeros(c.n_layer, c.n_head, DISTANCES)
    on_class = torch.zeros(c.n_layer, c.n_head, len(WORD_CLASSES))
    for story in stories:
        ids, pieces = _begun(model, tokenizer, story)
        maps_LHTT, _ = attention_of(model, ids)
        at_distance += _by_distance(maps_LHTT) / len(stories)
        on_class += _by_class(maps_LHTT, classes_of(pieces)) / len(stories)
    whole, found = mean_loss(model, tokenizer, stories), []
    for part in heads(model) if parts is None else parts:
        with ablated(model, [part]):
            cost = mean_loss(model, tokenizer, stories) - whole
        near, named = (x[part.layer, part.number] for x in (at_distance, on_class))
        kind = "distance" if near.max() >= named.max() else "meaning"
        found.append(Head(
            part.layer, part.number, kind, int(near.argmax()), float(near.max()),
            WORD_CLASSES[int(named.argmax())], float(named.max()), cost,
        ))  # fmt: skip
    return found


def _by_distance(maps_LHTT: Tensor) -> Tensor:
    """Mean attention at each distance 0, 1, ... [L, H, DISTANCES]; rows that reach that far."""
    T = maps_LHTT.shape[-1]
    means = [maps_LHTT.diagonal(-d, 2, 3).mean(-1) for d in range(min(T, DISTANCES))]
    return F.pad(torch.stack(means, -1), (0, DISTANCES - len(means)))


def _by_class(maps_LHTT: Tensor, classes: np.ndarray) -> Tensor:
    """Mean attention on each word class beyond an even look at what is visible: [L, H, classes]."""
    one_hot_TK = F.one_hot(torch.from_numpy(classes), len(WORD_CLASSES)).float()
    T = len(classes)
    even_TT = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    return ((maps_LHTT - even_TT) @ one_hot_TK).mean(2)


def mean_loss(model: Transformer, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    """Nats per token over stories, each behind an end of text and cut to the context."""
    longest = model.config.context - 1
    ids = [[*tokenizer.encode(story), tokenizer.eot_id][:longest] for story in stories]
    return text_loss(model, TokenDataset.from_ids(ids), tokenizer.eot_id).nats_per_token


@torch.inference_mode()
def neuron_peaks(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], most: int = 6
) -> list[list[list[Peak]]]:
    """For every layer and neuron: the `most` tokens of the stories that excite it most.

    At most one token of each story counts for a neuron, so that one story does not fill its list.
    """
    c = model.config
    value = torch.full((c.n_layer, most, c.mlp_hidden), -torch.inf)
    place = torch.zeros(c.n_layer, most, c.mlp_hidden, dtype=torch.int64)
    texts = []
    for number, story in enumerate(stories):
        ids, pieces = _begun(model, tokenizer, story)
        texts.append(pieces)
        with _activations(model) as seen:
            model.features(torch.tensor([ids], device=model.embedding.weight.device))
        for layer in range(c.n_layer):
            best_F, token_F = seen[layer][0].float().cpu().max(0)
            values = torch.cat((value[layer], best_F[None]))
            places = torch.cat((place[layer], token_F[None] + (number << 16)))
            value[layer], order = values.topk(most, dim=0)
            place[layer] = places.gather(0, order)
    return [[_peaks(value[layer, :, f], place[layer, :, f], texts) for f in range(c.mlp_hidden)]
            for layer in range(c.n_layer)]  # fmt: skip


def _peaks(values: Tensor, places: Tensor, texts: Sequence[Sequence[str]]) -> list[Peak]:
    """The peaks that were found; -inf stands for none."""
    found = zip(values.tolist(), places.tolist())
    return [_peak(value, place, texts) for value, place in found if value > -torch.inf]


def _peak(value: float, place: int, texts: Sequence[Sequence[str]]) -> Peak:
    pieces, t = texts[place >> 16], place & 0xFFFF
    before, after = "".join(pieces[max(0, t - 8) : t]), "".join(pieces[t + 1 : t + 4])
    return Peak(value, before, pieces[t] if t else "(start)", after)


@contextmanager
def _activations(model: Transformer) -> Iterator[dict[int, Tensor]]:
    """Inside, each run of the model fills in the activations of its neurons [B, T, F]."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple], None]:
        def hook(_: nn.Module, inputs: tuple) -> None:
            seen[layer] = inputs[0]

        return hook

    hooks = (
        block.mlp.down.register_forward_pre_hook(keep(layer))
        for layer, block in enumerate(model.blocks)
    )
    with _hooked(hooks):
        yield seen
