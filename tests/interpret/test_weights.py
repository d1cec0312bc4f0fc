"""What the weights of one block compute, beside plain loops over tokens, pairs and positions."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import random_model
from interpret.node import run_node

from minislm.interpret import weights
from minislm.interpret.activations import mean_outputs
from minislm.interpret.export import export
from minislm.runtime.errors import UserError
from minislm.tokenizer import Tokenizer

V, N, H, D = 24, 8, 4, 4
LLAMA = dict(n_layer=1, vocab_size=V, width=16, n_head=H, n_kv_head=2, context=40)
BIASED = LLAMA | dict(norm="layernorm", mlp="gelu", qkv_bias=True, out_bias=True, mlp_bias=True,
                      tied=False, attention_scale=False)  # fmt: skip
FREQUENCY = torch.tensor([9.0, 0.0, *(1 + i * i % 7 + i / 50 for i in range(V - 2))])  # all differ
P = (FREQUENCY / FREQUENCY.sum()).double().numpy()


def one_block(shape: dict) -> torch.nn.Module:
    """A random model whose biases and scales of norms are random too."""
    model, generator = random_model(**shape), torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, float(weight.detach().mean()), 0.3, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(params=[LLAMA, BIASED], ids=["llama", "biased"])
def model(request):
    return one_block(request.param)


def normed(model):
    return model.blocks[0].attention_norm(model.embedding.weight)


def all_scores(model):
    """Scores of all pairs, the query at position 3 + d, the key at 3: [H, d, query, key]."""
    attention, rows = model.blocks[0].attention, []
    for d in range(N):
        projected = [attention.project(normed(model)[None], (model.cos[t], model.sin[t]))
                  for t in (3 + d, 3)]  # fmt: skip
        q, k = projected[0][0][0], projected[1][1][0]
        rows.append([(q[h] @ k[h // 2].T * attention.scale).double().numpy() for h in range(H)])
    return np.array(rows).swapaxes(0, 1)


def logit_effect(model, head, token):
    """What a head adds to the logits for one token read, from slices of the weights: [V]."""
    attention, norm = model.blocks[0].attention, model.norm
    start = (H + 2 + head // 2) * D  # after 4 heads of queries and 2 of keys
    value_D = attention.qkv.weight[start : start + D] @ normed(model)[token]
    stream_C = attention.out.weight[:, head * D : head * D + D] @ value_D
    if isinstance(norm, torch.nn.LayerNorm):
        stream_C = stream_C - stream_C.mean()
    return (model.head.weight @ (stream_C * norm.weight)).double().numpy()


def test_copying_scores_are_those_of_the_whole_circuit(model):
    for head, found in enumerate(weights.copying_scores(model)):
        eigenvalues = np.linalg.eigvals(np.array([logit_effect(model, head, a) for a in range(V)]))
        expected = eigenvalues.real.sum() / np.abs(eigenvalues).sum()
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_copying_scores_of_heads_that_copy_and_that_suppress(sign):
    model = random_model(**LLAMA | {"n_kv_head": H})
    attention = model.blocks[0].attention
    with torch.no_grad():
        attention.out.weight.copy_(sign * attention.qkv.weight[2 * H * D :].T)  # W_V transposed
    assert weights.copying_scores(model) == pytest.approx([sign] * H, abs=1e-6)


COMMON = FREQUENCY.argsort(descending=True)[:12].tolist()
Q = P[COMMON] / P[COMMON].sum()


def circuit(model, most=1000, distances=N, **constants):
    """What web/circuits.js finds for every head, with other constants in place of its own."""
    means = mean_outputs(model, [[1, 2]])
    blob = export(model, byte_tokenizer(), means, "float32")
    job = """return Array.from({ length: model.H }, (_, h) => [
        distanceProfile(model, h, data.ids, data.p, data.d),
        skipTrigrams(model, h, data.ids, data.p, 0.7, data.most),
    ]);"""
    return run_node(
        job, *blob, constants=constants, ids=COMMON, p=Q.tolist(), most=most, d=distances
    )


def byte_tokenizer():
    """The export needs a tokenizer; this one has more tokens than the model."""
    return Tokenizer.train(["a"], 257)


def test_the_profile_by_distance_is_that_of_all_pairs(model):
    pairs, scores = np.outer(Q, Q), all_scores(model)[:, :, COMMON][..., COMMON]
    expected = (scores * pairs).sum((2, 3))
    for head, (profile, found) in enumerate(circuit(model, NEAREST=N)):
        assert np.allclose(profile, expected[head], atol=1e-4)
        far, centre = scores[head, 1:], expected[head, 1:].mean()
        variance = (((far - centre) ** 2) * pairs).sum() / (N - 1)
        share = ((expected[head, 1:] - centre) ** 2).mean() / variance
        assert found["share"] == pytest.approx(share, rel=1e-3)


def test_distances_end_with_the_window():
    for window, reach in ((5, 5), (0, N)):
        found = circuit(one_block(LLAMA | {"windows": (window,)}))
        assert {len(profile) for profile, _ in found} == {reach}
        largest = max(each["distance"] for _, head in found for each in head["trigrams"])
        assert (largest <= 4) == bool(window)


def slow_skip_trigrams(model, head):
    """Every token A with its best B, and of each A the two largest C; no C more than twice."""
    scores = all_scores(model)[head][:4][:, COMMON][..., COMMON]
    mean_B, triples = (np.exp(scores) * Q).sum(2).mean(0), []
    for a in range(12):
        strength = np.exp(scores[1:, :, a])
        weight = strength.max(0) / (strength.max(0) + 5 * mean_B)
        b = int(weight.argmax())
        logits = 0.7 * logit_effect(model, head, COMMON[a])[COMMON]
        logits -= (Q * logits).sum()
        place = 1 + int(strength[:, b].argmax())
        best = np.argsort(-logits)[:2]
        triples += [(weight[b] * logits[c], weight[b], place, a, b, c) for c in best]
    seen, found = Counter(), []
    for effect, weight, distance, a, b, c in sorted(triples, reverse=True):
        seen[c] += 1
        if seen[c] <= 2:
            found.append((COMMON[a], COMMON[b], COMMON[c], distance, weight, effect))
    return found


def test_skip_trigrams_are_the_strongest_of_every_token(model):
    every = circuit(model, NEAREST=4, OTHERS=5)
    few = circuit(model, most=3, NEAREST=4, OTHERS=5)
    for head in range(H):
        names = ("read", "query", "predicted", "distance", "weight", "effect")
        found = [tuple(map(each.get, names)) for each in every[head][1]["trigrams"]]
        expected = slow_skip_trigrams(model, head)
        assert [each[:4] for each in found] == [each[:4] for each in expected]
        assert np.allclose([x[4:] for x in found], [x[4:] for x in expected], rtol=1e-3)
        assert few[head][1]["trigrams"] == every[head][1]["trigrams"][:3]


def test_what_follows_a_token_is_that_of_the_two_paths(model):
    means = mean_outputs(model, IDS)
    block, attention_C, mlp_C = model.blocks[0], *mean_streams(model, means)
    job = """return data.tokens.map((token) =>
        Object.values(afterToken(model, token, 0.8)).map((p) => [...p]));"""
    data = export(model, byte_tokenizer(), means, "float32")
    for token, (direct, with_mlp) in zip((0, 7), run_node(job, *data, tokens=[0, 7])):
        x = model.embedding.weight[token] + attention_C
        assert np.allclose(direct, readout(model, x + mlp_C, 0.8).softmax(-1), atol=1e-5)
        y = x + block.mlp(block.mlp_norm(x))
        assert np.allclose(with_mlp, model.head(model.norm(y)).softmax(-1), atol=1e-5)


def mean_streams(model, means):
    """What attention and MLP add to the residual stream on average."""
    block = model.blocks[0]
    return block.attention.out(means.heads_LHD[0].flatten()), block.mlp.down(means.neurons_LF[0])


IDS = [[0, 5, 3, 7, 7], [0, 2, 9, 4, 5, 6, 3, 3, 8], [0, 4]]
TARGETS = np.array([i for text in IDS for i in text[1:]])


def readout(model, stream, factor):
    """The logits of one position, the final norm's factor given."""
    norm, bias = model.norm, 0
    if isinstance(norm, torch.nn.LayerNorm):
        stream, bias = stream - stream.mean(), norm.bias
    return model.head(stream * factor * norm.weight + bias)


def by_hand(model):
    """Of every target: embedding, outputs of attention and MLP, the final norm's factor."""
    block, seen = model.blocks[0], []
    for text in IDS:
        T = len(text) - 1
        x = model.embedding(torch.tensor(text[:-1]))
        rotary, positions = (model.cos[:T], model.sin[:T]), torch.arange(T)[None]
        attention = block.attention(block.attention_norm(x)[None], rotary, None, None, positions)[0]
        mlp = block.mlp(block.mlp_norm(x + attention))
        for t in range(T):
            stream = x[t] + attention[t] + mlp[t]
            if isinstance(model.norm, torch.nn.LayerNorm):
                stream = stream - stream.mean()
            seen.append((x[t], attention[t], mlp[t], (stream.square().mean() + 1e-5).rsqrt()))
    return seen


def test_losses_and_means_are_those_of_every_position(model):
    found, seen = weights.loss_by_path(model, IDS), by_hand(model)
    _, attention_C, mlp_C, scale = (
        torch.stack(each).double().mean(0).float() for each in zip(*seen)
    )
    assert found["scale"] == pytest.approx(float(scale), rel=1e-5)
    block, losses = model.blocks[0], []
    for (x, attention, mlp, factor), target in zip(seen, TARGETS):
        alone = x + attention_C
        logits = [readout(model, y, factor) for y in (alone + mlp_C, x + attention + mlp_C)]
        logits += [model.head(model.norm(x + attention + mlp))]
        logits += [model.head(model.norm(alone + block.mlp(block.mlp_norm(alone))))]
        losses.append([-float(each.log_softmax(-1)[target]) for each in logits])
    expected = np.mean(losses, axis=0)
    names = ("direct", "heads", "whole", "token")
    assert [found[name] for name in names] == pytest.approx(expected.tolist(), rel=1e-5)
    shares = [count / len(TARGETS) for count in Counter(TARGETS.tolist()).values()]
    assert found["unigram"] == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert not any(module._forward_hooks for module in (block.attention, block.mlp))


def test_hooks_are_removed_after_an_error():
    model = one_block(LLAMA)
    with pytest.raises(ValueError, match="context"):
        weights.loss_by_path(model, [[0] * 60])
    assert not model.blocks[0].mlp._forward_hooks


def test_followers_are_counted():
    V = 300  # V * V is larger than 16 bits
    tokens = np.random.default_rng(0).integers(200, V - 2, 400).astype(np.uint16)
    tokens[::3] = 250
    pairs, last = Counter(zip(tokens.tolist(), tokens[1:].tolist())), Counter(tokens[:-1].tolist())
    found, entropy = weights.followers(tokens, V, [250, 201, 299], top=3)
    for word, rows in zip((250, 201), found):
        rates = {b: count / last[word] for (a, b), count in pairs.items() if a == word}
        assert [rate for _, rate in rows] == sorted(rates.values(), reverse=True)[:3]
        assert all(rate == rates[b] for b, rate in rows)
    assert found[2] == []
    expected = -sum(count * math.log(count / last[a]) for (a, _), count in pairs.items()) / 399
    assert entropy == pytest.approx(expected)


def test_neighbours_are_those_of_a_plain_ppmi_matrix():
    tokens = np.random.default_rng(1).zipf(1.4, 600) % (V - 1)  # one token never occurs
    words, window = [3, 1, 9, 7, 4, 6, 2], 3
    ppmi, at = np.zeros((len(words), V)), tokens.tolist()
    context = np.array([max(1, at.count(c)) ** 0.75 for c in range(V)])
    for i, word in enumerate(words):
        around = Counter(at[s] for t in range(len(at)) if at[t] == word
                         for s in range(max(0, t - window), t + window + 1)
                         if s != t and s < len(at))  # fmt: skip
        for c, count in around.items():
            pmi = math.log(count / around.total() / (context[c] / context.sum()))
            ppmi[i, c] = max(0, pmi)
    for rank in (7, 3):
        u, s, _ = np.linalg.svd(ppmi, full_matrices=False)
        x = (u * np.sqrt(s))[:, :rank]
        found = weights.ppmi_neighbours(tokens, V, words, window, rank, top=4)
        assert found.tolist() == slow_nearest(x, words, 4)


def slow_nearest(x, words, top):
    def cosine(i, j):
        return x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])

    return [[words[j] for j in sorted(set(range(len(words))) - {i}, key=lambda j: -cosine(i, j))]
            [:top] for i in range(len(words))]  # fmt: skip


def test_neighbours_have_a_seed_of_their_own(monkeypatch):
    def random_factors(x, q, niter):
        return torch.randn(len(x), q), torch.ones(q), None

    monkeypatch.setattr(torch, "svd_lowrank", random_factors)
    tokens = np.arange(300) % 90
    torch.manual_seed(5)
    state = torch.get_rng_state()
    expected = weights.ppmi_neighbours(tokens, 90, range(90), rank=30)
    assert (torch.get_rng_state() == state).all()
    torch.manual_seed(6)
    assert (weights.ppmi_neighbours(tokens, 90, range(90), rank=30) == expected).all()


def test_neighbours_are_nearly_those_of_the_exact_factors(monkeypatch):
    tokens = np.random.default_rng(3).integers(0, 200, 5000)
    fast = weights.ppmi_neighbours(tokens, 200, range(200), rank=8, top=1)
    monkeypatch.setattr(torch, "svd_lowrank", lambda x, **_: torch.linalg.svd(x))
    exact = weights.ppmi_neighbours(tokens, 200, range(200), rank=8, top=1)
    assert (fast == exact).mean() > 0.95


def test_neighbours_in_the_embedding():
    model, words = random_model(**LLAMA), [4, 8, 1, 20, 11, 2, 3]
    x = model.embedding.weight.detach().double().numpy()[words]
    data = export(model, byte_tokenizer(), mean_outputs(model, [[1]]), "float32")
    job = "return data.words.map((_, at) => embeddingNeighbours(model, data.words, at, 3))"
    assert run_node(job, *data, words=words) == slow_nearest(x, words, 3)


@pytest.mark.parametrize("shape", [{"n_layer": 2}, {"position": "learned"}])
@pytest.mark.parametrize("call", [weights.copying_scores, lambda m: weights.loss_by_path(m, IDS)])
def test_other_models_are_refused(shape, call):
    with pytest.raises(UserError, match="exact for one block with rotary positions"):
        call(random_model(**LLAMA | shape))
