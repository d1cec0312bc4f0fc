"""What goes on inside a model, measured: what it expects, what its heads read, which of them
matter, and which tokens excite its neurons (the questions of Eldan & Li 2023, section 5).

A head goes *by distance* or *by meaning*. The measure: imitate it by a reader that cannot see the
words, who gives every token the mean weight that this head gives to its distance. The share of
attention that the two place alike is what distance explains. Above one half the head goes by
distance; below, the words decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minislm.config import ModelConfig
from minislm.corpus import TokenFile
from minislm.errors import UserError
from minislm.lexicon import WORD_CLASSES, classify
from minislm.loss import token_losses
from minislm.model import Attention, Transformer, attention_weights, visible
from minislm.tokenizer import StreamDecoder, Tokenizer

# What a token can be to a head: the classes of words, and two kinds of tokens that are no words.
CLASSES = (*WORD_CLASSES, "mark", "start")
_BATCH_TOKENS = 4096


# ---------------------------------------------------------------------------------------------
# Texts


@dataclass(frozen=True)
class Text:
    """A text as tokens: the end of text that stands before it, then its own."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]  # what each token adds to the text: "" for the first
    classes: tuple[str, ...]  # of the word that each token belongs to, one of CLASSES

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, ids: Sequence[int], tokenizer: Tokenizer) -> Text:
        """The text of `ids`, which hold no special token."""
        decoder = StreamDecoder(tokenizer, [tokenizer.eot_id])
        pieces = [decoder.push(int(token)) for token in ids]
        if pieces:
            pieces[-1] += decoder.flush()
        of_characters: list[str] = []
        for piece, word_class in classify("".join(pieces)):
            is_word = any(map(str.isalnum, piece))
            of_characters += [word_class if is_word else "mark"] * len(piece)
        classes, begin = ["start"], 0
        for piece in pieces:
            inked = len(piece) - len(piece.lstrip())  # its first character that is not white
            known = inked < len(piece)
            classes.append(of_characters[begin + inked] if known else "mark")
            begin += len(piece)
        return cls((tokenizer.eot_id, *map(int, ids)), ("", *pieces), tuple(classes))


def text_of(text: str, model: Transformer, tokenizer: Tokenizer) -> Text:
    """`text` as the model reads it; raises UserError if it is empty or too long for the model."""
    ids = tokenizer.encode(text)
    context = model.config.context
    if not ids:
        raise UserError("there is no text to look at; give at least one word")
    if len(ids) >= context:
        raise UserError(
            f"the text has {len(ids)} tokens and the model's context holds {context} with the end "
            "of text before it; give a shorter text"
        )
    return Text.of(ids, tokenizer)


def sample_texts(
    stories: TokenFile, tokenizer: Tokenizer, tokens: int, longest: int
) -> list[Text]:
    """The first stories, about `tokens` tokens in all; each cut to `longest`."""
    texts, total = [], 0
    for i in range(len(stories)):
        ids = [token for token in stories.story(i).tolist() if token != tokenizer.eot_id]
        texts.append(Text.of(ids[: min(longest - 1, max(1, tokens - total))], tokenizer))
        total += len(texts[-1]) - 1
        if total >= tokens:
            break
    return texts


# ---------------------------------------------------------------------------------------------
# Heads and neurons, and how one is switched off


@dataclass(frozen=True)
class Part:
    """A head ("1.3") or a neuron ("1.n17") of a block."""

    layer: int
    number: int
    neuron: bool = False

    def __str__(self) -> str:
        return f"{self.layer}.{'n' * self.neuron}{self.number}"


def heads_of(config: ModelConfig) -> list[Part]:
    return [Part(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]


def parse_parts(text: str, config: ModelConfig) -> list[Part]:
    """Parts from "0.3,1.n17"; raises UserError for one that this model does not have."""
    parts = []
    for name in filter(None, re.split(r"[\s,]+", text)):
        match = re.fullmatch(r"(\d+)\.(n?)(\d+)", name)
        if not match:
            raise UserError(f"{name!r} is no head or neuron; write 0.3 (block 0, head 3) or 0.n17")
        part = Part(int(match[1]), int(match[3]), bool(match[2]))
        limit, what = (
            (config.mlp_hidden, "neurons n") if part.neuron else (config.n_head, "heads ")
        )
        if part.layer >= config.n_layer or part.number >= limit:
            raise UserError(
                f"the model has no {name}: its blocks are 0 to {config.n_layer - 1}, "
                f"with {what}0 to {limit - 1} each"
            )
        parts.append(part)
    if not parts:
        raise UserError("no head or neuron is named; write 0.3 (block 0, head 3) or 0.n17")
    return parts


@contextmanager
def switched_off(model: Transformer, parts: Sequence[Part]) -> Iterator[None]:
    """While this lasts, the parts add nothing to the residual stream.

    All that a head or neuron does goes through its own columns of the matrix that writes its
    layer's result, so with these at zero it is gone, in sampling as well; a bias stays.
    """
    columns = []
    for part in parts:
        block = model.blocks[part.layer]
        if part.neuron:
            columns.append(block.mlp.down.weight[:, part.number])
        else:
            D = block.attention.D
            columns.append(block.attention.out.weight[:, part.number * D : (part.number + 1) * D])
    kept = [column.detach().clone() for column in columns]
    try:
        with torch.no_grad():
            for column in columns:
                column.zero_()
        yield
    finally:
        with torch.no_grad():
            for column, weights in zip(columns, kept):
                column.copy_(weights)


# ---------------------------------------------------------------------------------------------
# Watching a forward pass


def attention_of(
    attention: Attention, x_BTC: Tensor, rotary: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The weights [B, H, T, S] with which a layer reads whole texts; every row sums to 1."""
    q_BHTD, k_BKSD, _ = attention.project(x_BTC, rotary)
    T = x_BTC.shape[1]
    mask = visible(torch.arange(T, device=x_BTC.device), T, attention.window or T)
    k_BHSD = k_BKSD.repeat_interleave(attention.H // attention.K, dim=1)
    return attention_weights(q_BHTD, k_BHSD, mask, attention.scale)


@torch.no_grad()
def watch(
    model: Transformer,
    text: Text,
    attention: Callable[[int, Tensor], None] | None = None,
    neurons: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Read a text and hand each layer's attention [H, T, S] and activations [T, F] over.

    Returns the logits [T, V]. One layer's weights are alive at a time.
    """
    handles = []
    for layer, block in enumerate(model.blocks):
        if attention is not None:

            def look(module, arguments, layer=layer):
                attention(layer, attention_of(module, *arguments[:2])[0])

            handles.append(block.attention.register_forward_pre_hook(look))
        if neurons is not None:

            def feel(module, arguments, layer=layer):
                neurons(layer, arguments[0][0].float())

            handles.append(block.mlp.down.register_forward_pre_hook(feel))
    try:
        return model(torch.tensor([text.ids], device=model.embedding.weight.device))[0].float()
    finally:
        for handle in handles:
            handle.remove()


def text_losses(
    model: Transformer, texts: Sequence[Text], progress: bool = False
) -> list[np.ndarray]:
    """The nats of every token [T] given those before it; 0 for the end of text that begins it."""
    device = model.embedding.weight.device
    found: list[np.ndarray] = [np.zeros(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda t: len(texts[t]))
    while order:
        width = len(texts[order[-1]])  # the longest left
        rows = max(1, _BATCH_TOKENS // width)
        chosen, order = order[-rows:], order[:-rows]
        tokens_BT = torch.zeros(len(chosen), width, dtype=torch.int64)
        targets_BT = torch.full((len(chosen), width), -1)
        for b, t in enumerate(chosen):
            ids = torch.tensor(texts[t].ids)
            tokens_BT[b, : len(ids)], targets_BT[b, : len(ids) - 1] = ids, ids[1:]
        losses_BT = token_losses(
            model, tokens_BT.to(device), targets_BT.to(device), torch.float32
        ).cpu()
        for b, t in enumerate(chosen):
            found[t] = np.concatenate(([0.0], losses_BT[b, : len(texts[t]) - 1].double().numpy()))
    return found


# ---------------------------------------------------------------------------------------------
# What the heads read, and what each of them is worth


@dataclass(frozen=True)
class Head:
    """A head's habits on a text, as shares of its attention (see the module's docstring)."""

    part: Part
    distance: float  # what distance explains
    offset: int  # the distance read most: 0 is the token itself, 1 the one before
    at_offset: float
    word_class: str  # the class read most beyond what distance explains
    on_class: float
    by_distance_alone: float  # what the reader without words gives to that class
    favourites: tuple[str, ...]  # the tokens read most beyond what distance explains

    @property
    def kind(self) -> str:
        return "distance" if self.distance >= 0.5 else "meaning"


def profile_weights(profile_HS: Tensor, T: int) -> Tensor:
    """How a reader without words spreads its attention: [H, T, S], from its weight by distance."""
    position = torch.arange(T, device=profile_HS.device)
    distance_TS = position[:, None] - position
    weights_HTS = profile_HS[:, distance_TS.clamp(min=0)] * (distance_TS >= 0)
    return weights_HTS / weights_HTS.sum(-1, keepdim=True).clamp(min=1e-12)


def mean_by_distance(model: Transformer, texts: Sequence[Text]) -> Tensor:
    """The mean weight [L, H, S] that each head gives to the token at each distance."""
    config, longest = model.config, max(map(len, texts))
    device = model.embedding.weight.device
    sums_LHS = torch.zeros(config.n_layer, config.n_head, longest, device=device)
    queries_S = torch.zeros(longest, device=device)
    for text in texts:
        T = len(text)
        position = torch.arange(T, device=device)
        distance = (position[:, None] - position).clamp(min=0).flatten()

        def add(layer: int, weights_HTS: Tensor) -> None:
            sums_LHS[layer].index_add_(1, distance, weights_HTS.flatten(1))

        watch(model, text, attention=add)
        queries_S[:T] += T - position
    return sums_LHS / queries_S


def head_habits(
    model: Transformer, texts: Sequence[Text], favourites: int = 6
) -> tuple[list[Head], Tensor]:
    """The habits of every head on `texts`, and its mean weight by distance [L, H, S].

    The first token of a text, which can read nothing but itself, does not count.
    """
    config, device = model.config, model.embedding.weight.device
    profile_LHS = mean_by_distance(model, texts)
    shape, size = (config.n_layer, config.n_head), config.vocab_size
    alike_LH = torch.zeros(shape, device=device)
    read_LHc, blind_LHc = torch.zeros(2, *shape, len(CLASSES), device=device)
    beyond_LHV = torch.zeros(*shape, size, device=device)
    for text in texts:
        classes = torch.tensor([CLASSES.index(name) for name in text.classes], device=device)
        ids = torch.tensor(text.ids, device=device)

        def compare(layer: int, weights_HTS: Tensor) -> None:
            blind_HTS = profile_weights(profile_LHS[layer], len(text))[:, 1:]
            weights_HTS = weights_HTS[:, 1:]
            alike_LH[layer] += torch.minimum(weights_HTS, blind_HTS).sum((1, 2))
            read_HS, blind_HS = weights_HTS.sum(1), blind_HTS.sum(1)
            read_LHc[layer].index_add_(1, classes, read_HS)
            blind_LHc[layer].index_add_(1, classes, blind_HS)
            beyond_LHV[layer].index_add_(1, ids, read_HS - blind_HS)

        watch(model, text, attention=compare)
    queries = max(1, sum(len(text) - 1 for text in texts))
    spelt = {token: piece for text in texts for token, piece in zip(text.ids, text.pieces)}
    heads = []
    for part in heads_of(config):
        at = part.layer, part.number
        offset = int(profile_LHS[at].argmax())
        best = int((read_LHc[at] - blind_LHc[at]).argmax())
        top = beyond_LHV[at].topk(min(favourites, size))
        names = [spelt[i] for i, extra in zip(top.indices.tolist(), top.values) if extra > 0]
        heads.append(
            Head(
                part=part,
                distance=float(alike_LH[at] / queries),
                offset=offset,
                at_offset=float(profile_LHS[at][offset]),
                word_class=CLASSES[best],
                on_class=float(read_LHc[at][best] / queries),
                by_distance_alone=float(blind_LHc[at][best] / queries),
                favourites=tuple(names),
            )
        )
    return heads, profile_LHS


@dataclass(frozen=True)
class Cost:
    """What switching parts off adds to the loss of some texts."""

    nats: float  # per token, mean
    error: float  # standard error over the texts; nan for one text
    each: list[np.ndarray]  # of every token of every text


def cost_of(
    model: Transformer, parts: Sequence[Part], texts: Sequence[Text], as_it_is: list[np.ndarray]
) -> Cost:
    """Switch parts off and read `texts` again; `as_it_is` are their losses with all parts on."""
    with switched_off(model, parts):
        without = text_losses(model, texts)
    each = [off - on for off, on in zip(without, as_it_is)]
    tokens = np.array([max(1, len(text) - 1) for text in texts])
    sums = np.array([float(more.sum()) for more in each])
    nats, n = sums.sum() / tokens.sum(), len(texts)
    spread = np.square(sums - nats * tokens).sum()  # of a ratio, over texts of unequal lengths
    error = np.sqrt(spread * n / (n - 1)) / tokens.sum() if n > 1 else np.nan
    return Cost(float(nats), float(error), each)


# ---------------------------------------------------------------------------------------------
# Neurons


def exciting_tokens(
    model: Transformer, texts: Sequence[Text], top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that excite each neuron most: activations [L, F, k] and places int [L, F, k].

    Excited is a large activation of either sign (a gated neuron has both), the largest first. A
    place counts through all the texts one after the other; the first token of a text is passed
    over, because it excites many neurons and says nothing.
    """
    config, device = model.config, model.embedding.weight.device
    top = min(top, sum(len(text) - 1 for text in texts))
    empty = (config.mlp_hidden, 0)
    best = [
        (torch.empty(empty, device=device), torch.empty(empty, dtype=torch.int64, device=device))
        for _ in range(config.n_layer)
    ]
    begin = 0
    for text in tqdm(texts, "neurons", unit=" texts", leave=False, disable=None):
        places = torch.arange(begin + 1, begin + len(text), device=device)

        def keep(layer: int, active_TF: Tensor) -> None:
            values = torch.cat((best[layer][0], active_TF[1:].T), dim=1)
            where = places.expand(len(values), -1)
            where = torch.cat((best[layer][1], where), dim=1)
            chosen = values.abs().topk(min(top, values.shape[1])).indices
            best[layer] = values.gather(1, chosen), where.gather(1, chosen)

        watch(model, text, neurons=keep)
        begin += len(text)
    values, where = (torch.stack(each).cpu().numpy() for each in zip(*best))
    return values, where
