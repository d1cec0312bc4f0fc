"""Losses, attention weights and neuron activations of a text, and the kinds of a model's heads.

Heads are of the two kinds of the TinyStories paper (Eldan & Li 2023, section 5): distance-based, or
semantic where the weight on a word class is larger than that at any distance."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.interpret.ablation import Component, ablated, all_heads
from minislm.model import Transformer, causal_mask
from minislm.stories.lexicon import WORD_CLASSES, classify
from minislm.tokenizer import StreamDecoder, Tokenizer

ALTERNATIVES = 5  # most probable next tokens of a position that an Analysis has
DISTANCES = 32  # distances 0, 1, ... that a distance-based head may have


@dataclass(frozen=True)
class Analysis:
    """A text of T tokens, the first of them an end of text, under a model."""

    tokens: list[str]  # the text of each; "" for the first
    classes: np.ndarray  # int [T]: indices into WORD_CLASSES
    losses: np.ndarray  # float [T], nats; NaN for the first
    alternatives: list[list[tuple[str, float]]]  # most probable tokens there; [] for the first
    attention_LHTT: Tensor  # row t: the attention weights of token t as a query


@dataclass(frozen=True)
class Head:
    """What a head attends to, and how much the loss rises without it."""

    layer: int
    index: int
    kind: str  # "distance" or "semantic"
    target: str  # such as "previous token" or "nouns"
    weight: float  # mean attention weight on it, of a semantic head beyond uniform attention
    loss_increase: float  # nats per token, when the head is ablated


class Peak(NamedTuple):
    """A token at which a neuron has a large activation, and the text around it."""

    activation: float
    before: str
    token: str
    after: str


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; of the tokens of one character, the last one has all of it."""
    decoder = StreamDecoder(tokenizer)
    texts = [decoder.push(token) for token in ids]
    return [*texts[:-1], texts[-1] + decoder.flush()] if texts else []


def class_of_characters(words: Sequence[tuple[str, str]]) -> np.ndarray:
    """The class of each character of (text, class) pairs, as an index into WORD_CLASSES."""
    classes = [WORD_CLASSES.index(name) for _, name in words]
    return np.repeat(classes, [len(text) for text, _ in words])


def classes_of(tokens: Sequence[str]) -> np.ndarray:
    """The class of the word that each token's last character belongs to: int [T]."""
    of_character = class_of_characters(classify("".join(tokens)))
    ends = np.cumsum([len(token) for token in tokens])
    other = WORD_CLASSES.index("other")
    return np.array([of_character[e - 1] if t else other for e, t in zip(ends, tokens)], int)


def encode(model: Transformer, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[str]]:
    """Ids and token texts of a text after an end of text, truncated to the context."""
    ids = [tokenizer.eot_id, *tokenizer.encode(text)][: model.config.context]
    return ids, ["", *token_texts(tokenizer, ids[1:])]


@torch.inference_mode()
def analyze(model: Transformer, tokenizer: Tokenizer, text: str) -> Analysis:
    """Losses, most probable tokens and attention weights of a text; see `encode`."""
    ids, tokens = encode(model, tokenizer, text)
    attention_LHTT, features_TC = attention_of(model, ids)
    logprobs_TV = model.head(features_TC[:-1]).float().log_softmax(-1).cpu()
    losses_T = -logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    p_TV = logprobs_TV[:, : tokenizer.vocab_size].exp()  # rows beyond it have no token
    best = p_TV.topk(min(ALTERNATIVES, p_TV.shape[1]))
    alternatives = [
        [(tokenizer.decode([i]) or "(end)", p) for i, p in zip(*row)]
        for row in zip(best.indices.tolist(), best.values.tolist())
    ]
    losses = np.append(np.nan, losses_T.numpy())
    return Analysis(tokens, classes_of(tokens), losses, [[], *alternatives], attention_LHTT)


@torch.inference_mode()
def attention_of(model: Transformer, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Attention weights of one text in float32 on the CPU [L, H, T, T], and its features [T, C]."""
    modules, maps, T = [block.attention for block in model.blocks], [], len(ids)
    features_TC, inputs = _inputs_of(modules, model, ids)
    for attention, (x_BTC, rotary, *_) in zip(modules, inputs):
        q_BHTD, k_BKTD, _ = attention.project(x_BTC, rotary)
        k_BHTD = k_BKTD.repeat_interleave(attention.H // attention.K, dim=1)
        mask_BTT = causal_mask(torch.arange(T, device=x_BTC.device)[None], T, attention.window)
        maps.append(attention_weights(q_BHTD, k_BHTD, mask_BTT, attention.scale))
    return torch.cat(maps).cpu(), features_TC


def attention_weights(q_BHTD: Tensor, k_BHSD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) over the keys where `mask` is true, in float32: [B, H, T, S]."""
    scores_BHTS = (q_BHTD.float() @ k_BHSD.float().transpose(-1, -2)) * scale
    return scores_BHTS.masked_fill(~mask, -torch.inf).softmax(dim=-1)


@torch.inference_mode()
def activations_of(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Activations of the MLP neurons on one text, in float32 on the CPU: [L, T, F]."""
    _, inputs = _inputs_of([block.mlp.down for block in model.blocks], model, ids)
    return torch.cat([x_BTF for (x_BTF,) in inputs]).float().cpu()


def _inputs_of(
    modules: Sequence[nn.Module], model: Transformer, ids: Sequence[int]
) -> tuple[Tensor, list[tuple]]:
    """The features [T, C] of one text, and the arguments that each of `modules` was called with."""
    inputs: list[tuple] = []
    with ExitStack() as stack:
        for module in modules:
            hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
            stack.callback(hook.remove)
        features_BTC = model.features(torch.tensor([ids], device=model.embedding.weight.device))
    return features_BTC[0], inputs


def classify_heads(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str],
    heads: Iterable[Component] | None = None,
) -> list[Head]:  # fmt: skip
    """Kind and ablation of `heads` (default: all of the model), measured on stories."""
    distance_LHD = class_LHK = 0.0
    for story in stories:
        ids, tokens = encode(model, tokenizer, story)
        maps_LHTT, _ = attention_of(model, ids)
        distance_LHD = distance_LHD + weight_by_distance(maps_LHTT) / len(stories)
        class_LHK = class_LHK + weight_by_class(maps_LHTT, classes_of(tokens)) / len(stories)
    whole, found = mean_loss(model, tokenizer, stories), []
    for head in all_heads(model) if heads is None else heads:
        with ablated(model, [head]):
            increase = mean_loss(model, tokenizer, stories) - whole
        h = head.layer, head.index
        found.append(Head(*h, *_kind(distance_LHD[h], class_LHK[h]), increase))
    return found


def _kind(distance_D: Tensor, class_K: Tensor) -> tuple[str, str, float]:
    d, c = int(distance_D.argmax()), int(class_K.argmax())
    if distance_D[d] >= class_K[c]:
        target = {0: "itself", 1: "previous token"}.get(d, f"{d} tokens back")
        return "distance", target, float(distance_D[d])
    return "semantic", f"{WORD_CLASSES[c]}s".replace("others", "other words"), float(class_K[c])


def weight_by_distance(maps_LHTT: Tensor) -> Tensor:
    """Mean attention weight at each distance, over the queries that reach it: [L, H, DISTANCES]."""
    T = maps_LHTT.shape[-1]
    means = [maps_LHTT.diagonal(-d, 2, 3).mean(-1) for d in range(min(T, DISTANCES))]
    return F.pad(torch.stack(means, -1), (0, DISTANCES - len(means)))


def weight_by_class(maps_LHTT: Tensor, classes: np.ndarray) -> Tensor:
    """Mean attention weight on each word class, minus that of uniform attention: [L, H, K]."""
    one_hot_TK = F.one_hot(torch.from_numpy(classes), len(WORD_CLASSES)).float()
    T = len(classes)
    uniform_TT = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    return ((maps_LHTT - uniform_TT) @ one_hot_TK).mean(2)


def mean_loss(model: Transformer, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    """Nats per token of stories, as in `text_loss`."""
    documents = TokenDataset.from_texts(stories, tokenizer)
    return text_loss(model, documents, tokenizer.eot_id).nats_per_token


def neuron_peaks(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], most: int = 6
) -> list[list[list[Peak]]]:
    """For every block and neuron, the `most` tokens with the largest activations.
    Of each story only the largest activation of a neuron counts: no story fills a list alone."""
    encoded = [encode(model, tokenizer, story) for story in stories]
    largest = [activations_of(model, ids).max(1) for ids, _ in encoded]  # values, indices: [L, F]
    best_NLF, story_NLF = torch.stack([x.values for x in largest]).topk(min(most, len(stories)), 0)
    position_NLF = torch.stack([x.indices for x in largest]).gather(0, story_NLF)

    def peak(activation: float, story: int, t: int) -> Peak:
        _, tokens = encoded[story]
        before, after = "".join(tokens[max(0, t - 8) : t]), "".join(tokens[t + 1 : t + 4])
        return Peak(activation, before, tokens[t] if t else "(start)", after)

    layers = zip(*(x.permute(1, 2, 0).tolist() for x in (best_NLF, story_NLF, position_NLF)))
    return [[[peak(*each) for each in zip(*neuron)] for neuron in zip(*layer)] for layer in layers]
