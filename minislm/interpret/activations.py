"""Losses, attention weights and neuron activations of a text, and the kinds of a model's heads.
The kinds are by distance and by meaning ("semantic" in Eldan & Li 2023, section 5), or mixed."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.interpret.ablation import Means, ablated, all_heads
from minislm.model import Attention, Rotary, Transformer, causal_mask
from minislm.runtime.errors import UserError
from minislm.stories.lexicon import WORD_CLASSES, classify
from minislm.tokenizer import StreamDecoder, Tokenizer

DISTANCES = 32  # distances 0, 1, ... that a head by distance may have
CLEAR = 0.1  # attention weight beyond that of uniform attention that makes a kind


@dataclass(frozen=True)
class Head:
    """What a head attends to, and how much the loss rises without it."""

    layer: int
    index: int
    kind: str  # "distance", "meaning" or "mixed"
    target: str  # such as "previous token" or "nouns": what it reads most beyond uniform attention
    weight: float  # mean attention weight on it
    even: float  # that of uniform attention
    loss_increase: float  # nats per token, when the head is replaced by its mean


class Peak(NamedTuple):
    """A token at which a neuron has a large activation."""

    story: int
    position: int  # in the story's tokens, the end of text before it included
    activation: float


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; of the tokens of one character, the last one has all of it."""
    decoder = StreamDecoder(tokenizer)
    texts = [decoder.push(token) for token in ids]
    return [*texts[:-1], texts[-1] + decoder.flush()] if texts else []


def classes_of(tokens: Sequence[str]) -> np.ndarray:
    """The class of the word that each token's last character belongs to: int [T]."""
    words = classify("".join(tokens))
    classes = [WORD_CLASSES.index(name) for _, name in words]
    of_character = np.repeat(classes, [len(text) for text, _ in words])
    ends = np.cumsum([len(token) for token in tokens])
    other = WORD_CLASSES.index("other")
    return np.array([of_character[e - 1] if t else other for e, t in zip(ends, tokens)], int)


def encode(model: Transformer, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[str]]:
    """Ids and token texts of a text after an end of text, truncated to the context."""
    ids = [tokenizer.eot_id, *tokenizer.encode(text)][: model.config.context]
    return ids, ["", *token_texts(tokenizer, ids[1:])]


@torch.inference_mode()
def attention_of(model: Transformer, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Attention weights of one text in float32 on the CPU [L, H, T, T], and its features [T, C]."""
    modules = [block.attention for block in model.blocks]
    features_TC, inputs = inputs_of(modules, model, ids)
    both = [weights_and_values(each, *call[:2]) for each, call in zip(modules, inputs)]
    return torch.cat([weights_1HTT for weights_1HTT, _ in both]).cpu(), features_TC


def weights_and_values(attention: Attention, x_BTC: Tensor, rotary: Rotary) -> tuple[Tensor, ...]:
    """Attention weights [B, H, T, T] of whole texts, and values [B, H, T, D], in float32."""
    q_BHTD, *kv = attention.project(x_BTC, rotary)
    k_BHTD, v_BHTD = (each.repeat_interleave(attention.H // attention.K, dim=1) for each in kv)
    pos_1T = torch.arange(x_BTC.shape[1], device=x_BTC.device)[None]
    mask_1TT = causal_mask(pos_1T, x_BTC.shape[1], attention.window)
    return attention_weights(q_BHTD, k_BHTD, mask_1TT, attention.scale), v_BHTD.float()


def attention_weights(q_BHTD: Tensor, k_BHSD: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) over the keys where `mask` is true, in float32: [B, H, T, S]."""
    scores_BHTS = (q_BHTD.float() @ k_BHSD.float().transpose(-1, -2)) * scale
    return scores_BHTS.masked_fill(~mask, -torch.inf).softmax(dim=-1)


@torch.inference_mode()
def activations_of(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Activations of the MLP neurons on one text, in float32 on the CPU: [L, T, F]."""
    _, inputs = inputs_of([block.mlp.down for block in model.blocks], model, ids)
    return torch.cat([x_BTF for (x_BTF,) in inputs]).float().cpu()


def mean_outputs(model: Transformer, texts: Sequence[Sequence[int]]) -> Means:
    """The mean outputs of heads and neurons over all tokens of some texts (see `ablation`)."""
    c = model.config
    modules = [each for block in model.blocks for each in (block.attention.out, block.mlp.down)]
    sums: list[Any] = [0.0] * len(modules)
    for ids in texts:
        _, inputs = inputs_of(modules, model, ids)
        sums = [total + x_BTI[0].double().sum(0) for total, (x_BTI,) in zip(sums, inputs)]
    means = [(total / sum(map(len, texts))).float().cpu() for total in sums]
    heads_LHD = torch.stack(means[::2]).view(c.n_layer, c.n_head, c.head_width)
    return Means(heads_LHD, torch.stack(means[1::2]))


def inputs_of(
    modules: Sequence[nn.Module], model: Transformer, ids: Sequence[int]
) -> tuple[Tensor, list[tuple]]:
    """The features [T, C] of one text, and the arguments that each of `modules` was called with.
    UserError: attention that this folder does not compute."""
    c = model.config
    if c.position not in ("rotary", "learned") or c.qk_scale or c.null_cosine:
        raise UserError("the page and the accounts are for rotary and learned positions, without "
                        "normalised queries; studies/circuit.py examines this model")  # fmt: skip
    inputs: list[tuple] = []
    with ExitStack() as stack:
        for module in modules:
            hook = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
            stack.callback(hook.remove)
        features_BTC = model.features(torch.tensor([ids], device=model.embedding.weight.device))
    return features_BTC[0], inputs


def classify_heads(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], means: Means
) -> list[Head]:
    """Kind and mean ablation of every head, measured on stories. A head is by distance if its mean
    weight at one distance exceeds that of uniform attention by at least CLEAR, and by more than 1.5
    times what its weight on any word class does; by meaning in the opposite case; else mixed."""
    distance_LHD = class_LHK = even_D = even_K = 0.0
    for story in stories:
        ids, tokens = encode(model, tokenizer, story)
        maps_LHTT, _ = attention_of(model, ids)
        T, classes = len(ids), classes_of(tokens)
        even_11TT = (torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None])[None, None]
        distance_LHD = distance_LHD + weight_by_distance(maps_LHTT) / len(stories)
        class_LHK = class_LHK + weight_by_class(maps_LHTT, classes) / len(stories)
        even_D = even_D + weight_by_distance(even_11TT)[0, 0] / len(stories)
        even_K = even_K + weight_by_class(even_11TT, classes)[0, 0] / len(stories)
    whole, found = mean_loss(model, tokenizer, stories), []
    for head in tqdm(all_heads(model), unit="head", disable=None, leave=False):
        with ablated(model, [head], means):
            increase = mean_loss(model, tokenizer, stories) - whole
        h = head.layer, head.index
        found.append(Head(*h, *_kind(distance_LHD[h], even_D, class_LHK[h], even_K), increase))
    return found


def _kind(
    distance_D: Tensor, even_D: Tensor, class_K: Tensor, even_K: Tensor
) -> tuple[str, str, float, float]:
    d, k = int((distance_D - even_D).argmax()), int((class_K - even_K).argmax())
    by_distance, by_class = float((distance_D - even_D)[d]), float((class_K - even_K)[k])
    clear = max(by_distance, by_class) >= max(CLEAR, 1.5 * min(by_distance, by_class))
    if by_distance >= by_class:
        target = {0: "itself", 1: "previous token"}.get(d, f"{d} tokens back")
        return "distance" if clear else "mixed", target, float(distance_D[d]), float(even_D[d])
    target = f"{WORD_CLASSES[k]}s".replace("others", "other words")
    return "meaning" if clear else "mixed", target, float(class_K[k]), float(even_K[k])


def weight_by_distance(maps_LHTT: Tensor) -> Tensor:
    """Mean attention weight at each distance, over the queries that reach it: [L, H, DISTANCES]."""
    T = maps_LHTT.shape[-1]
    means = [maps_LHTT.diagonal(-d, 2, 3).mean(-1) for d in range(min(T, DISTANCES))]
    return F.pad(torch.stack(means, -1), (0, DISTANCES - len(means)))


def weight_by_class(maps_LHTT: Tensor, classes: np.ndarray) -> Tensor:
    """Mean attention weight on each word class: [L, H, K]."""
    one_hot_TK = F.one_hot(torch.from_numpy(classes), len(WORD_CLASSES)).float()
    return (maps_LHTT @ one_hot_TK).mean(2)


def mean_loss(model: Transformer, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    """Nats per token of stories, as in `text_loss`."""
    documents = TokenDataset.from_texts(stories, tokenizer)
    return text_loss(model, documents, tokenizer.eot_id).nats_per_token


def neuron_peaks(
    model: Transformer, texts: Sequence[Sequence[int]], most: int = 6
) -> list[list[list[Peak]]]:
    """For every block and neuron, the `most` largest activations on texts, one of each at most."""
    largest = [activations_of(model, ids).max(1) for ids in texts]  # values, indices: [L, F]
    best_NLF, story_NLF = torch.stack([x.values for x in largest]).topk(min(most, len(texts)), 0)
    position_NLF = torch.stack([x.indices for x in largest]).gather(0, story_NLF)
    layers = zip(*(x.permute(1, 2, 0).tolist() for x in (story_NLF, position_NLF, best_NLF)))
    return [[[Peak(*each) for each in zip(*neuron)] for neuron in zip(*layer)] for layer in layers]
