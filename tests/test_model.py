"""The transformer: shapes, cache, options and initial weights."""

import math

import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS, ModelConfig
from minislm.interpret.activations import attention_of, attention_weights
from minislm.kv_cache import KVCache
from minislm.model import Transformer, causal_mask, rotary_tables, rotate
from minislm.runtime.device import on_meta_device
from minislm.runtime.errors import UserError

LLAMA = {}
GPT2 = PRESETS["gpt2"]
NEO = PRESETS["gpt-neo"] | {"windows": (0, 5)}
NOPE = dict(position="none")
RUN = PRESETS["unary"] | dict(width=64, context=128, run_tokens=tuple(range(200)), qk_scale=6.0)
ODD = dict(width=48, n_head=3, n_kv_head=1, tied=False, head_dim=10, qkv_bias=True)


@pytest.mark.parametrize(
    "options",
    [LLAMA, GPT2, NEO, ODD, NOPE, RUN],
    ids="llama gpt2 neo odd nope run".split(),
)
def test_cached_logits_equal_uncached_ones(options):
    model = random_model(**options)
    tokens = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        cache = KVCache.empty(model.config, 3, 40, like=whole)
        cache.k_LBKSD.fill_(1e4)  # the contents of positions not reached yet must not matter
        cache.v_LBKSD.fill_(1e4)
        parts = [model(tokens[:, :17], cache, torch.arange(17).expand(3, 17))]
        for p in range(17, 40):
            parts.append(model(tokens[:, p : p + 1], cache, torch.full((3, 1), p)))
    assert whole.shape == (3, 40, 300)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)


def test_rows_of_different_lengths_share_a_cache():
    model = random_model()
    texts = [torch.randint(0, 300, (n,)) for n in (3, 11, 7)]
    with torch.no_grad():
        cache = KVCache.empty(model.config, 3, 20, like=model.embedding.weight)
        padded = torch.zeros(3, 11, dtype=torch.int64)
        for b, text in enumerate(texts):
            padded[b, : len(text)] = text
        model(padded, cache, torch.arange(11).expand(3, 11))
        pos = torch.tensor([[len(text)] for text in texts])
        got = model(torch.full((3, 1), 9), cache, pos)[:, 0]
        for b, text in enumerate(texts):
            alone = model(torch.cat((text, torch.tensor([9])))[None])[0, -1]
            torch.testing.assert_close(got[b], alone, atol=1e-4, rtol=0)


def test_a_view_of_a_cache_writes_into_it_and_a_row_can_be_moved():
    model = random_model()
    cache = KVCache.empty(model.config, 3, 20, like=model.embedding.weight)
    tokens = torch.randint(0, 300, (1, 9))
    with torch.no_grad():
        model(tokens, cache.view(slice(1, 2), 9), torch.arange(9)[None])
        assert cache.k_LBKSD[:, 1, :, :9].ne(0).all() and cache.k_LBKSD[:, [0, 2]].eq(0).all()
        cache.move(1, 2)
        got = model(torch.tensor([[7]]), cache.view(slice(2, 3), 10), torch.tensor([[9]]))[0, 0]
        expected = model(torch.cat((tokens, torch.tensor([[7]])), 1))[0, -1]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="context of 128"):
        KVCache.empty(model.config, 1, 129, like=model.embedding.weight)


@pytest.mark.parametrize("options", [LLAMA, NEO], ids=["llama", "neo"])
def test_no_token_depends_on_a_later_one(options):
    model = random_model(**options)
    tokens = torch.randint(0, 300, (1, 20))
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 300
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:12], after[:12])
    assert (before[12:] - after[12:]).abs().amax(-1).min() > 1e-3


def test_a_window_hides_earlier_tokens():
    model = random_model(**(NEO | {"n_layer": 1, "windows": (5,)}))
    tokens = torch.randint(0, 300, (1, 20))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 300
    with torch.no_grad():
        moved = (model(tokens) - model(changed))[0].abs().amax(-1) > 1e-5
    assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


def test_causal_mask():
    mask = causal_mask(torch.tensor([[0, 2, 3]]), 4, 0)[0].int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(torch.tensor([[3]]), 4, 2)[0].int().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("blocks, heads", [(1, 4), (2, 2)])
def test_some_heads_are_initialised_as_previous_token_heads(blocks, heads):
    """Whatever the tokens are: they attend to the previous token, to the one before, and so on."""
    torch.manual_seed(7)
    shape = dict(n_layer=blocks, vocab_size=300, context=64, qkv_bias=True, out_bias=True)
    model = Transformer(ModelConfig(**shape))
    maps_HTT = attention_of(model.eval(), torch.randint(300, (40,)).tolist())[0][0]
    H, K = model.config.n_head, model.config.kv_heads
    for n in range(1, heads + 1):
        targets = maps_HTT[(n - 1) * (H // K)].argmax(-1)
        assert targets[5:].tolist() == list(range(5 - n, 40 - n))
        assert maps_HTT[(n - 1) * (H // K)].diagonal(-n)[5:].min() > 0.2
    others = maps_HTT[[h for h in range(H) if h not in range(0, heads * (H // K), H // K)]]
    assert others.max(-1).values[:, 20:].max() < 0.2  # they attend about uniformly


def test_attention_is_softmax_of_scores_times_values():
    model = random_model(n_layer=1)
    attention = model.blocks[0].attention
    x = torch.randn(2, 9, 64)
    rotary = (model.cos[:9], model.sin[:9])
    with torch.no_grad():
        q, k, v = attention.project(x, rotary)
        k, v = (each.repeat_interleave(2, dim=1) for each in (k, v))
        weights = attention_weights(q, k, causal_mask(torch.arange(9), 9, 0), attention.scale)
        slow = attention.out((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(
            attention(x, rotary, None, None, torch.arange(9)[None]), slow, atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))


def test_places_count_the_digits_of_each_run():
    model = random_model(position="run", run_tokens=(4, 7))
    tokens = torch.tensor([[4, 7, 7, 1, 7, 1, 1, 4, 4], [1, 4, 1, 1, 1, 1, 1, 7, 7]])
    expected = [[1, 2, 3, 0, 1, 0, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0, 1, 2]]
    assert model.places(tokens).tolist() == expected
    model = random_model(position="run", run_tokens=tuple(range(300)))
    assert model(torch.randint(0, 300, (1, 128))).isfinite().all()  # one long run


def test_attention_by_place_in_a_run_with_a_null_key():
    """Against plain loops: normalised queries and keys, rotated by place; only tokens before the
    own one, and a null key with value 0."""
    model = random_model(n_layer=1, **RUN)
    attention, ids = model.blocks[0].attention, torch.randint(0, 300, (1, 30))
    x = model.blocks[0].attention_norm(model.embedding(ids))
    places, D = model.places(ids)[0], attention.D
    with torch.no_grad():
        heads = attention.qkv(x)[0].view(30, 3, attention.H, D)
        expected = torch.zeros(30, attention.H, D)
        for h in range(attention.H):
            q, k, v = (heads[:, part, h].tolist() for part in range(3))
            q, k = ([rotated(row, int(p), D) for row, p in zip(each, places)] for each in (q, k))
            for t in range(30):
                scores = [0.7 * 6] + [6 * sum(a * b for a, b in zip(q[t][:-1], k[s][:-1]))
                                      for s in range(t)]  # fmt: skip
                weights = [math.exp(score - max(scores)) for score in scores]
                for s in range(t):
                    share = weights[s + 1] / sum(weights)
                    expected[t, h] += share * torch.tensor(v[s])
        rotary = tuple(table[places][None, None] for table in (model.cos, model.sin))
        got = attention(x, rotary, None, None, torch.arange(30)[None])
    torch.testing.assert_close(got[0], attention.out(expected.flatten(1)), atol=1e-4, rtol=1e-4)


def rotated(row: list[float], place: int, D: int) -> list[float]:
    """A query or key of length 1, each pair of its dimensions rotated by 3 place / 10^(2d/D)."""
    length, out = math.sqrt(sum(a * a for a in row)), [0.0] * D
    for d in range(D // 2):
        angle = 3 * place * 10 ** (-2 * d / D)
        a, b = row[d] / length, row[d + D // 2] / length
        out[d] = a * math.cos(angle) - b * math.sin(angle)
        out[d + D // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_without_positions_earlier_tokens_may_be_exchanged():
    model = random_model(n_layer=1, **NOPE)
    tokens = torch.randint(0, 300, (1, 12))
    other = tokens[:, [3, 0, 2, 1, *range(4, 12)]]
    torch.testing.assert_close(model(tokens)[:, -1], model(other)[:, -1], atol=1e-5, rtol=1e-5)
    rotary = random_model(n_layer=1)
    assert not torch.allclose(rotary(tokens)[:, -1], rotary(other)[:, -1], atol=1e-3)


def test_rotary_scores_depend_on_distance_alone():
    config = ModelConfig(width=64, n_head=1, n_kv_head=1, context=64)
    cos, sin = rotary_tables(config)
    q, k = torch.randn(64), torch.randn(64)

    def at(x, p):
        return rotate(x[None], cos[p], sin[p])[0]

    assert torch.isclose(at(q, 9) @ at(k, 4), at(q, 45) @ at(k, 40), atol=1e-4)
    assert not torch.isclose(at(q, 9) @ at(k, 4), at(q, 9) @ at(k, 5), atol=1e-2)


def test_initial_weights_have_the_documented_spread():
    model = Transformer(ModelConfig(n_layer=8, width=128, n_head=8))
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert weight.eq(1).all(), name
            continue
        into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
        expected = 0.02 / math.sqrt(16) if into_stream else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.03), name


def test_dropout_is_for_training_only():
    model = random_model(dropout=0.5)
    tokens = torch.randint(0, 300, (1, 8))
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


def test_the_default_is_small():
    model = Transformer(ModelConfig())
    assert model.n_parameters() < 5_000_000 and len(model.blocks) == 1
    assert model.head.weight is model.embedding.weight


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="context of 128"):
        random_model()(torch.zeros(1, 129, dtype=torch.int64))


@pytest.mark.parametrize(
    "options, flag",
    [
        (dict(n_layer=0), "--n-layer"),
        (dict(width=100, n_head=8), "--width"),
        (dict(n_head=8, n_kv_head=3), "--n-kv-head"),
        (dict(norm="batchnorm"), "--norm"),
        (dict(width=24, n_head=8, n_kv_head=8), "--head-dim"),
        (dict(dropout=1.0), "--dropout"),
        (dict(dropout=float("nan")), "--dropout"),
        (dict(windows=(-1,)), "--windows"),
    ],
)
def test_an_impossible_shape_is_refused_with_its_flag(options, flag):
    with pytest.raises(UserError, match=flag):
        ModelConfig(**options)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"position": "learned"}], ids=str)
def test_a_model_on_the_meta_device_has_the_shapes_of_the_model(options):
    config = ModelConfig(vocab_size=300, context=64, **options)
    with on_meta_device():
        shapes = Transformer(config)
    model = Transformer(config)
    assert all(weight.is_meta for weight in shapes.parameters())
    assert [(name, weight.shape) for name, weight in shapes.named_parameters()] == [
        (name, weight.shape) for name, weight in model.named_parameters()
    ]
    for (name, table), (other, wanted) in zip(shapes.named_buffers(), model.named_buffers()):
        assert name == other and torch.equal(table, wanted)
